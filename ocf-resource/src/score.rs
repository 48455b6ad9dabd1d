//! Numbers that say how well something fits.

use core::fmt;
use core::ops::Add;
use core::str::FromStr;
use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

/// How well something fits; more is better. Between -1,000,000, which means never, and 1,000,000, which means always.
///
/// Sums stay in these bounds, and never wins over always, as in Pacemaker. Written as a number, or as `INFINITY` and
/// `-INFINITY`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Score(i32);

impl Score {
    /// Nothing speaks for it, and nothing against it.
    pub const ZERO: Self = Self(0);
    /// Always.
    pub const INFINITY: Self = Self(1_000_000);
    /// Never.
    pub const NEVER: Self = Self(-1_000_000);

    /// This number, or the bound beyond which it lies.
    #[must_use]
    pub const fn new(score: i64) -> Self {
        if score >= 1_000_000 {
            Self::INFINITY
        } else if score <= -1_000_000 {
            Self::NEVER
        } else {
            #[expect(clippy::cast_possible_truncation, reason = "it lies within the bounds")]
            Self(score as i32)
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i32 {
        self.0
    }
}

impl Add for Score {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        if self == Self::NEVER || other == Self::NEVER {
            Self::NEVER
        } else if self == Self::INFINITY || other == Self::INFINITY {
            Self::INFINITY
        } else {
            Self::new(i64::from(self.0) + i64::from(other.0))
        }
    }
}

impl core::iter::Sum for Score {
    fn sum<I: Iterator<Item = Self>>(scores: I) -> Self {
        scores.fold(Self::ZERO, Add::add)
    }
}

impl fmt::Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::INFINITY => f.write_str("INFINITY"),
            Self::NEVER => f.write_str("-INFINITY"),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// A text that is no score.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a score: write a number, INFINITY or -INFINITY")]
pub struct ScoreError {
    /// The text, at most 40 letters of it.
    pub text: String,
}

impl FromStr for Score {
    type Err = ScoreError;

    fn from_str(text: &str) -> Result<Self, ScoreError> {
        match text.trim() {
            "INFINITY" | "+INFINITY" => Ok(Self::INFINITY),
            "-INFINITY" => Ok(Self::NEVER),
            number => {
                let wrong = |_| ScoreError { text: text.chars().take(40).collect() };
                number.parse::<i64>().map(Self::new).map_err(wrong)
            }
        }
    }
}

impl Serialize for Score {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::INFINITY | Self::NEVER => serializer.collect_str(self),
            Self(number) => serializer.serialize_i32(number),
        }
    }
}

impl<'de> Deserialize<'de> for Score {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Number(i64),
            Text(String),
        }
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(Self::new(number)),
            Written::Text(text) => text.parse().map_err(D::Error::custom),
        }
    }
}

/// What an agent says of promoting what it runs here: `crm_master` and `ocf_promotion_score` in agents that are programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promotion {
    /// How good a choice it is. Below zero: it must not be promoted.
    Score(Score),
    /// It took its score back: it must not be promoted.
    Withdrawn,
}

impl fmt::Display for Promotion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Score(score) => score.fmt(f),
            Self::Withdrawn => f.write_str("withdrawn"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_wins_over_always_and_sums_stay_within_the_bounds() {
        let (always, never) = (Score::INFINITY, Score::NEVER);
        assert_eq!(always + never, never);
        assert_eq!(never + Score::new(5), never);
        assert_eq!(always + Score::new(-5), always);
        assert_eq!(Score::new(999_999) + Score::new(2), always);
        assert_eq!(Score::new(-3) + Score::new(5), Score::new(2));
        assert_eq!((Score::new(i64::MAX), Score::new(i64::MIN)), (always, never));
    }

    #[test]
    fn a_score_is_read_back_as_it_is_written() {
        for score in [Score::ZERO, Score::INFINITY, Score::NEVER, Score::new(-17), Score::new(100)] {
            assert_eq!(score.to_string().parse(), Ok(score));
            #[cfg(feature = "driver")]
            {
                let json = serde_json::to_string(&score).unwrap();
                assert_eq!(serde_json::from_str::<Score>(&json).unwrap(), score, "{json}");
            }
        }
        assert_eq!(" +INFINITY\n".parse(), Ok(Score::INFINITY));
        assert!("much".parse::<Score>().unwrap_err().to_string().contains("much"));
    }
}
