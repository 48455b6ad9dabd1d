//! Drawings of what a bench measured, as SVG under the build folder.

use plotters::prelude::*;
use std::path::{Path, PathBuf};

/// What a drawing says beside its lines. Both axes are logarithmic.
pub struct Axes {
    pub title: &'static str,
    pub x: &'static str,
    pub y: &'static str,
}

/// A line: its name and its points.
pub type Line = (&'static str, Vec<(f64, f64)>);

const COLOURS: [RGBColor; 6] =
    [BLACK, RGBColor(120, 120, 120), RGBColor(0, 90, 200), RGBColor(200, 40, 40), GREEN, MAGENTA];

/// A small number as a coordinate.
pub fn number(n: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
    let n = n as f64;
    n
}

/// Draws `lines` into `<build folder>/plots/<name>.svg`, and says where that is.
pub fn draw(name: &str, axes: &Axes, lines: &[Line]) -> String {
    let folder = folder();
    std::fs::create_dir_all(&folder).expect("the build folder can be written to");
    let path = folder.join(format!("{name}.svg"));
    match paint(&path, axes, lines) {
        Ok(()) => format!("plot: {}", path.display()),
        Err(error) => format!("no plot {name}: {error}"),
    }
}

/// The build folder is where the program lies: `<folder>/release/deps/bench`.
fn folder() -> PathBuf {
    let program = std::env::current_exe().expect("a program knows where it lies");
    program.ancestors().nth(3).unwrap_or_else(|| Path::new(".")).join("plots")
}

fn paint(path: &Path, axes: &Axes, lines: &[Line]) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, points)| points).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let bounds = |values: &mut dyn Iterator<Item = f64>| {
        let (low, high) = values.fold((f64::MAX, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        low / 1.2..high * 1.2
    };
    if points().next().is_none() {
        return Err("nothing was measured".into());
    }
    let x = bounds(&mut points().map(|(x, _)| *x));
    let y = bounds(&mut points().map(|(_, y)| *y));
    let root = SVGBackend::new(path, (900, 560)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(axes.title, ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(74)
        .build_cartesian_2d(x.log_scale(), y.log_scale())?;
    chart.configure_mesh().x_desc(axes.x).y_desc(axes.y).draw()?;
    for ((name, points), colour) in lines.iter().zip(COLOURS.iter().cycle()) {
        let points = || points.iter().copied().filter(|(x, y)| *x > 0.0 && *y > 0.0);
        let line = LineSeries::new(points(), colour.stroke_width(2)).point_size(3);
        let swatch = *colour;
        chart
            .draw_series(line)?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], swatch.stroke_width(2)));
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    root.present()?;
    Ok(())
}
