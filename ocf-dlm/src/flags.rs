use core::fmt;
use core::ops::{BitOr, BitOrAssign};

/// How a request, a conversion or a release is to be treated: a set. The lower 20 bits have the numbers of Linux.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Flags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal;)*) => {
        impl Flags {
            $($(#[$doc])* pub const $name: Self = Self($bit);)*
            const NAMES: &[(&str, u32)] = &[$((stringify!($name), $bit)),*];
        }
    };
}

flags! {
    /// Refuse ([`Status::NotQueued`](crate::Status::NotQueued)) instead of waiting.
    NOQUEUE = 0x1;
    /// The value block goes along, in the direction of [`Mode::transfer`](crate::Mode::transfer).
    VALBLK = 0x8;
    /// Conversions only: wait behind the conversions that wait already.
    QUECVT = 0x10;
    /// Where a value block would be written, make the resource's block invalid instead.
    IVVALBLK = 0x20;
    /// Conversions only: on a conversion deadlock hold NL and wait, instead of failing. Do not rely on the held mode
    /// until the conversion ends.
    CONVDEADLK = 0x40;
    /// The lock survives its client as an orphan.
    PERSISTENT = 0x80;
    /// A wait of this lock does not count in deadlock searches.
    NODLCKWT = 0x100;
    /// This lock does not count as blocking in deadlock searches.
    NODLCKBLK = 0x200;
    /// New NL locks only: grant at once, whoever waits.
    EXPEDITE = 0x400;
    /// A refusal by NOQUEUE still notifies who is in the way.
    NOQUEUEBAST = 0x800;
    /// Wait at the head of the queue.
    HEADQUE = 0x1000;
    /// Grant as soon as it is compatible, out of order.
    NOORDER = 0x2000;
    /// Take over an orphan of the same resource and mode.
    ORPHAN = 0x4000;
    /// If the mode is not to be had, PR will do.
    ALTPR = 0x8000;
    /// If the mode is not to be had, CW will do.
    ALTCW = 0x1_0000;
    /// Release a lock that waits or converts, too.
    FORCEUNLOCK = 0x2_0000;
    /// Blocking notifications are wanted: the lock has a routine for them.
    NOTIFY = 0x100_0000;
    /// A grant that needs no wait is returned by the call and not notified.
    SYNCSTS = 0x200_0000;
    /// The lock takes no part in its lockspace's recovery domain.
    NODOMAIN = 0x400_0000;
    /// The lock belongs to its client although the client is in a group.
    OWNED = 0x800_0000;
    /// Between nodes, not for clients: the node may keep the grant when its client has let go.
    KEEP = 0x1000_0000;
    /// Between nodes, not for clients: the lock is released because its holder failed, or by force.
    FAILURE = 0x2000_0000;
}

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);

    /// The bits on the wire.
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// The flags among `bits` that exist.
    #[must_use]
    pub fn from_bits(bits: u32) -> Self {
        Self(bits & Self::NAMES.iter().fold(0, |all, (_, bit)| all | bit))
    }

    /// True if every flag of `other` is in this set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// True if some flag of `other` is in this set.
    #[must_use]
    pub const fn has_any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What this set has of `other`.
    #[must_use]
    pub const fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set without `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

impl BitOr for Flags {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}

impl BitOrAssign for Flags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Debug for Flags {
    /// `NOQUEUE|VALBLK`, or `-`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, _) in Self::NAMES.iter().filter(|(_, bit)| self.0 & bit != 0) {
            write!(f, "{separator}{name}")?;
            separator = "|";
        }
        if separator.is_empty() { f.write_str("-") } else { Ok(()) }
    }
}

/// What a completion says beside its status: a set with the numbers of Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Remarks {
    /// The held mode fell on the way, and others may have had what it held: to NL, because the conversion was in a conversion
    /// deadlock (CONVDEADLK); or to CR, because a conversion between PR and CW lost its master. Also if it was refused then.
    pub demoted: bool,
    /// The resource's value block is not valid.
    pub value_invalid: bool,
    /// Granted in the alternative mode (ALTPR, ALTCW).
    pub alternative: bool,
}

impl Remarks {
    /// The bits of Linux: DEMOTED 1, VALNOTVALID 2, ALTMODE 4.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.demoted as u8 | (self.value_invalid as u8) << 1 | (self.alternative as u8) << 2
    }

    /// The remarks with those bits; others are ignored.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self { demoted: bits & 1 != 0, value_invalid: bits & 2 != 0, alternative: bits & 4 != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_print_their_names_and_unknown_bits_are_left_out() {
        let set = Flags::NOQUEUE | Flags::VALBLK;
        assert_eq!(format!("{set:?}"), "NOQUEUE|VALBLK");
        assert_eq!(format!("{:?}", Flags::NONE), "-");
        assert!(
            set.has(Flags::VALBLK) && !set.has(Flags::QUECVT) && set.has_any(Flags::VALBLK | Flags::QUECVT)
        );
        assert_eq!(set.without(Flags::VALBLK), Flags::NOQUEUE);
        assert_eq!(Flags::from_bits(0x8000_0001), Flags::NOQUEUE);
    }

    #[test]
    fn every_flag_has_the_number_of_linux() {
        let numbers = [
            (Flags::NOQUEUE, 0x1),
            (Flags::VALBLK, 0x8),
            (Flags::QUECVT, 0x10),
            (Flags::IVVALBLK, 0x20),
            (Flags::CONVDEADLK, 0x40),
            (Flags::PERSISTENT, 0x80),
            (Flags::NODLCKWT, 0x100),
            (Flags::NODLCKBLK, 0x200),
            (Flags::EXPEDITE, 0x400),
            (Flags::NOQUEUEBAST, 0x800),
            (Flags::HEADQUE, 0x1000),
            (Flags::NOORDER, 0x2000),
            (Flags::ORPHAN, 0x4000),
            (Flags::ALTPR, 0x8000),
            (Flags::ALTCW, 0x10000),
            (Flags::FORCEUNLOCK, 0x20000),
        ];
        for (flag, number) in numbers {
            assert_eq!((flag.bits(), Flags::from_bits(number)), (number, flag));
        }
        // CANCEL, CONVERT and TIMEOUT are calls and terms of their own.
        assert_eq!(Flags::from_bits(0x2 | 0x4 | 0x40000), Flags::NONE);
    }

    #[test]
    fn remarks_have_the_bits_of_linux() {
        for bits in 0..8 {
            assert_eq!(Remarks::from_bits(bits).bits(), bits);
        }
        assert_eq!(Remarks { demoted: true, ..Remarks::default() }.bits(), 1);
        assert_eq!(Remarks { value_invalid: true, ..Remarks::default() }.bits(), 2);
    }
}
