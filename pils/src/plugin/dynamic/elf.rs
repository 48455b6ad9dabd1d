//! A look at a shared object before the system opens it. The system maps a file that was cut short without a word, and the
//! process dies when it touches what is not there.

/// Checks that the file is a shared object for this machine, with all that it says it has.
pub(super) fn check(bytes: &[u8]) -> Result<(), String> {
    let Some(header) = bytes.get(..64) else {
        return Err("is no shared object: it is shorter than the header of one".to_owned());
    };
    if !header.starts_with(b"\x7fELF") {
        return Err("is no shared object".to_owned());
    }
    let little = header[5] == 1;
    if header[4] != 2 || little != cfg!(target_endian = "little") {
        return Err("is a shared object for another kind of machine".to_owned());
    }
    let half = |at: usize| number(bytes, at, 2, little);
    let offset = number(bytes, 32, 8, little);
    let (size, count) = (half(54), half(56));
    let (Some(3), Some(offset), Some(size), Some(count)) = (half(16), offset, size, count) else {
        return Err("is a program or an object file, and no shared object".to_owned());
    };
    let short = || "is cut short: install it again".to_owned();
    // the table of sections is not loaded, but stands at the end of the file
    let sections = number(bytes, 40, 8, little).zip(half(58)).zip(half(60));
    let end = sections.and_then(|((at, size), count)| at.checked_add(size * count));
    if end.is_none_or(|end| end > bytes.len() as u64) {
        return Err(short());
    }
    for i in 0..count {
        let at = offset.checked_add(i * size).and_then(|at| usize::try_from(at).ok()).ok_or_else(short)?;
        let field = |within: usize| at.checked_add(within).and_then(|at| number(bytes, at, 8, little));
        let (start, length) = (field(8).ok_or_else(short)?, field(32).ok_or_else(short)?);
        if start.checked_add(length).is_none_or(|end| end > bytes.len() as u64) {
            return Err(short());
        }
    }
    Ok(())
}

fn number(bytes: &[u8], at: usize, length: usize, little: bool) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(length)?)?;
    let put = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
    Some(if little { field.iter().rev().fold(0, put) } else { field.iter().fold(0, put) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_shared_object_is_refused_before_it_is_opened() {
        assert!(check(b"").unwrap_err().contains("shorter"));
        assert!(check(&[b'x'; 64]).unwrap_err().contains("no shared object"));
        let mut header = [0; 64];
        header[..6].copy_from_slice(b"\x7fELF\x01\x01");
        assert!(check(&header).unwrap_err().contains("another kind"));
        let itself = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(check(&itself), Ok(()), "a position-independent program has the form of a shared object");
        for part in [1, 7, 15] {
            let cut = &itself[..itself.len() * part / 16];
            assert_eq!(check(cut).unwrap_err(), "is cut short: install it again");
        }
    }

    #[test]
    fn no_header_makes_the_check_panic() {
        let mut rng = crate::Rng::new(1);
        let mut header = [0; 200];
        for _ in 0..10_000 {
            rng.fill(&mut header);
            header[..6].copy_from_slice(b"\x7fELF\x02\x01");
            header[16..18].copy_from_slice(&[3, 0]);
            assert!(check(&header).is_err());
        }
    }
}
