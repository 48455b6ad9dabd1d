//! Datagrams: sealed packets with their frames, and the messages of the handshake.

mod announce;
mod frame;
mod handshake;
mod header;
mod obituary;
mod renewal;

#[cfg(any(test, fuzzing, feature = "testing"))]
pub(crate) use announce::ANNOUNCE_LEN;
pub(crate) use announce::Announce;
pub(crate) use frame::{ANSWER, Ack, DECLINE, Frame, OFFER, data_fit, put_ack, put_data_header, put_frame};
pub(crate) use handshake::{
    CLUSTER_HASH, Envelope, Handshake, REFUSED_DOUBLE, REFUSED_OFFER, REFUSED_STRANGER, seal_handshake,
};
pub(crate) use header::{HEADER, Header, Kind, VERSION};
pub(crate) use obituary::Obituary;
#[cfg(any(feature = "driver", test))]
pub(crate) use obituary::hash;
pub(crate) use renewal::{Declined, RENEWAL, Renewal};

use crate::Lane;

/// The number of a lane on the wire and in arrays.
pub(crate) const fn lane_index(lane: Lane) -> usize {
    lane as usize
}

/// As [`lane_index`], in the width of the wire.
pub(crate) const fn lane_number(lane: Lane) -> u8 {
    lane as u8
}

/// A byte count from the wire as a size in memory; saturates.
pub(crate) fn to_size(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}
