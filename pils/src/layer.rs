use crate::Instant;

/// A protocol layer: owns no clock, no socket, no thread, no randomness but the seed it was given.
///
/// The loop that runs one, be it a driver or a simulator:
///
/// ```
/// # use pils::{Instant, Layer};
/// fn turn<L: Layer>(layer: &mut L, now: Instant, input: L::Input<'_>, mut carry_out: impl FnMut(L::Output)) -> Option<Instant> {
///     layer.handle(now, input);
///     while let Some(output) = layer.poll_output() {
///         carry_out(output);
///     }
///     layer.poll_timeout() // call `handle_timeout` then, unless an input comes first
/// }
/// ```
///
/// Requests from above are inherent methods of the layer that take `now` and return their own error enum; on `Err`
/// nothing has changed. A stack of layers is again a `Layer`.
pub trait Layer {
    /// What arrives: messages and reports from below, completions of earlier outputs.
    type Input<'a>;
    /// What to do, in the order it must be carried out: transmit, persist, tell the layer above.
    type Output;
    /// Takes one input. Bounded work. Never fails: bad remote input is dropped and counted.
    fn handle(&mut self, now: Instant, input: Self::Input<'_>);
    /// Fires every timer due at `now`. Early or repeated calls do nothing.
    fn handle_timeout(&mut self, now: Instant);
    /// Next effect. Call until `None` after every `handle*` and every request.
    fn poll_output(&mut self) -> Option<Self::Output>;
    /// When to call `handle_timeout`. Valid once `poll_output` returned `None`.
    fn poll_timeout(&self) -> Option<Instant>;
}
