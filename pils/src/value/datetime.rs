use core::fmt;
use core::str::FromStr;

/// A date and time as XML-RPC writes it, `19980717T14:08:55`: which zone it means is agreed elsewhere.
///
/// Valid: year 0000 to 9999 of the Gregorian calendar, a day that its month has, second 60 for a leap second.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DateTime {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

/// Not a valid date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a date and time of the form 19980717T14:08:55")]
pub struct BadDateTime;

impl DateTime {
    /// From its seven bytes: the year in two, then month, day, hour, minute and second.
    ///
    /// # Errors
    /// If there is no such date or time.
    pub fn from_bytes(bytes: [u8; 7]) -> Result<Self, BadDateTime> {
        let [y1, y2, month, day, hour, minute, second] = bytes;
        let year = u16::from_be_bytes([y1, y2]);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let days = match month {
            2 => 28 + u8::from(leap),
            4 | 6 | 9 | 11 => 30,
            1..=12 => 31,
            _ => 0,
        };
        let valid = year <= 9999 && (1..=days).contains(&day) && hour < 24 && minute < 60 && second <= 60;
        if valid { Ok(Self { year, month, day, hour, minute, second }) } else { Err(BadDateTime) }
    }

    /// Its seven bytes, in the order in which dates sort.
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 7] {
        let [y1, y2] = self.year.to_be_bytes();
        [y1, y2, self.month, self.day, self.hour, self.minute, self.second]
    }
}

impl FromStr for DateTime {
    type Err = BadDateTime;

    fn from_str(text: &str) -> Result<Self, BadDateTime> {
        let digits = |from: usize, to: usize| {
            let part = text.get(from..to).filter(|part| part.bytes().all(|b| b.is_ascii_digit()));
            part.and_then(|part| part.parse::<u16>().ok()).ok_or(BadDateTime)
        };
        let separators = [(8, b'T'), (11, b':'), (14, b':')];
        if text.len() != 17 || separators.iter().any(|(at, byte)| text.as_bytes()[*at] != *byte) {
            return Err(BadDateTime);
        }
        let [y1, y2] = digits(0, 4)?.to_be_bytes();
        let mut bytes = [y1, y2, 0, 0, 0, 0, 0];
        for (byte, at) in bytes[2..].iter_mut().zip([4, 6, 9, 12, 15]) {
            *byte = u8::try_from(digits(at, at + 2)?).expect("two digits fit a byte");
        }
        Self::from_bytes(bytes)
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}{month:02}{day:02}T{hour:02}:{minute:02}:{second:02}")
    }
}

impl fmt::Debug for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dates_of_the_calendar_are_accepted() {
        for good in ["19980717T14:08:55", "20240229T23:59:60", "00000101T00:00:00", "99991231T00:00:00"] {
            assert_eq!(good.parse::<DateTime>().map(|d| d.to_string()), Ok(good.to_owned()));
        }
        for bad in [
            "",
            "1998-07-17T14:08:55",
            "19980717T14:08:55Z",
            "19980717 14:08:55",
            "19980717T24:00:00",
            "20230229T00:00:00",
            "19000229T00:00:00",
            "19981301T00:00:00",
            "19980700T00:00:00",
            "1998071+T00:00:00",
            "19980717T14:08:5é",
        ] {
            assert_eq!(bad.parse::<DateTime>(), Err(BadDateTime), "{bad}");
        }
    }
}
