use core::fmt;

/// How strongly a lock is held: what others may do beside it.
///
/// The order is that of the numbers on the wire. It is total, but [`Mode::Cw`] and [`Mode::Pr`] are not comparable in
/// strength: each excludes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Null: keeps the resource and its value block alive, excludes nobody.
    Nl = 0,
    /// Concurrent read: others may do anything but hold it exclusively.
    Cr = 1,
    /// Concurrent write: others may read or write concurrently.
    Cw = 2,
    /// Protected read: others may read, nobody writes. The usual shared lock.
    Pr = 3,
    /// Protected write: nobody else writes, others may read concurrently. The usual update lock.
    Pw = 4,
    /// Exclusive: nobody else reads or writes.
    Ex = 5,
}

/// What happens to a value block when a lock comes into a mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// The resource's block is returned to the caller.
    Read,
    /// The caller's block is written to the resource, or the resource's block is made invalid.
    Write,
    /// Nothing moves.
    Nothing,
}

impl Mode {
    /// All modes, weakest first.
    pub const ALL: [Self; 6] = [Self::Nl, Self::Cr, Self::Cw, Self::Pr, Self::Pw, Self::Ex];

    /// The number on the wire, 0 to 5.
    #[must_use]
    pub const fn raw(self) -> u8 {
        self as u8
    }

    /// The mode with that number on the wire.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(Self::Nl),
            1 => Some(Self::Cr),
            2 => Some(Self::Cw),
            3 => Some(Self::Pr),
            4 => Some(Self::Pw),
            5 => Some(Self::Ex),
            _ => None,
        }
    }

    /// This mode as a set of one.
    pub(crate) const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// The modes that another lock cannot have beside this one, as a set of [`Mode::bit`]s.
    pub(crate) const fn conflicts(self) -> u8 {
        const CONFLICTS: [u8; 6] = [0, 0b10_0000, 0b11_1000, 0b11_0100, 0b11_1100, 0b11_1110];
        CONFLICTS[self as usize]
    }

    /// True if two different locks on one resource may be held in these modes at once. Symmetric.
    ///
    /// Source: VAX/VMS lock manager, compatibility of lock modes.
    #[must_use]
    pub const fn is_compatible(self, other: Self) -> bool {
        self.conflicts() & other.bit() == 0
    }

    /// True if a conversion from this mode to `to` may be asked to queue behind others (flag QUECVT): it asks for
    /// something that this mode does not give.
    #[must_use]
    pub const fn may_queue_conversion(self, to: Self) -> bool {
        (self as u8) < to as u8 || matches!((self, to), (Self::Pr, Self::Cw))
    }

    /// True if a conversion from this mode to `to` gives something up and asks for nothing: it succeeds at once.
    #[must_use]
    pub const fn is_down(self, to: Self) -> bool {
        (to as u8) <= self as u8 && !matches!((self, to), (Self::Pr, Self::Cw))
    }

    /// True for the modes in which the holder alone may change what the lock protects, and alone writes the value block.
    #[must_use]
    pub const fn is_writer(self) -> bool {
        matches!(self, Self::Pw | Self::Ex)
    }

    /// Which way the value block goes when a lock held in `held` (`None`: a new lock) is granted `granted`.
    #[must_use]
    pub const fn transfer(held: Option<Self>, granted: Self) -> Transfer {
        let Some(held) = held else { return Transfer::Read };
        match held {
            Self::Nl => Transfer::Read,
            Self::Pw if matches!(granted, Self::Ex) => Transfer::Read,
            Self::Pw | Self::Ex => Transfer::Write,
            Self::Cr | Self::Cw | Self::Pr if granted as u8 >= held as u8 => Transfer::Read,
            Self::Cr | Self::Cw | Self::Pr => Transfer::Nothing,
        }
    }
}

impl fmt::Display for Mode {
    /// Two capital letters: `EX`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nl => "NL",
            Self::Cr => "CR",
            Self::Cw => "CW",
            Self::Pr => "PR",
            Self::Pw => "PW",
            Self::Ex => "EX",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of the VMS manuals; row: held, column: asked for.
    const COMPATIBLE: [&str; 6] = ["yyyyyy", "yyyyyn", "yyynnn", "yynynn", "yynnnn", "ynnnnn"];
    /// Row: a new lock, then held; column: granted.
    const TRANSFER: [&str; 7] = ["RRRRRR", "RRRRRR", "-RRRRR", "--RRRR", "---RRR", "WWWWWR", "WWWWWW"];
    /// Row: held, column: asked for; y: QUECVT is legal.
    const QUEUES: [&str; 6] = ["nyyyyy", "nnyyyy", "nnnyyy", "nnynyy", "nnnnny", "nnnnnn"];

    fn cells(table: &'static [&'static str]) -> impl Iterator<Item = (usize, Mode, char)> {
        table.iter().enumerate().flat_map(|(row, line)| {
            line.chars().zip(Mode::ALL).map(move |(cell, column)| (row, column, cell))
        })
    }

    #[test]
    fn every_cell_of_the_compatibility_table_is_as_in_vms() {
        for (row, asked, cell) in cells(&COMPATIBLE) {
            let held = Mode::ALL[row];
            assert_eq!(held.is_compatible(asked), cell == 'y', "{held} held, {asked} asked for");
            assert_eq!(held.is_compatible(asked), asked.is_compatible(held), "symmetric");
        }
    }

    #[test]
    fn every_cell_of_the_value_block_table_is_as_in_vms() {
        for (row, granted, cell) in cells(&TRANSFER) {
            let held = row.checked_sub(1).map(|row| Mode::ALL[row]);
            let expected = match cell {
                'R' => Transfer::Read,
                'W' => Transfer::Write,
                _ => Transfer::Nothing,
            };
            assert_eq!(Mode::transfer(held, granted), expected, "{held:?} to {granted}");
        }
    }

    #[test]
    fn every_cell_of_the_queued_conversion_table_is_as_in_the_kernel() {
        for (row, asked, cell) in cells(&QUEUES) {
            let held = Mode::ALL[row];
            assert_eq!(held.may_queue_conversion(asked), cell == 'y', "{held} to {asked}");
            assert_eq!(held.is_down(asked), cell == 'n', "{held} to {asked}");
        }
    }

    #[test]
    fn a_conversion_down_never_excludes_who_was_compatible_before() {
        for held in Mode::ALL {
            for to in Mode::ALL.into_iter().filter(|to| held.is_down(*to)) {
                assert_eq!(to.conflicts() & !held.conflicts(), 0, "{held} to {to}");
            }
        }
    }

    #[test]
    fn numbers_on_the_wire_come_back() {
        for mode in Mode::ALL {
            assert_eq!(Mode::from_raw(mode.raw()), Some(mode));
        }
        assert_eq!(Mode::from_raw(6), None);
    }
}
