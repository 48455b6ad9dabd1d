//! Bugs of paths that are put back, to prove that tests and simulator find them.

/// A bug of paths that is put back.
#[cfg_attr(
    not(feature = "testing"),
    expect(unreachable_pub, reason = "only tests and simulators of other crates name it")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sabotage {
    /// Data stays on the path it is on, dead or not.
    StickToDeadPath,
    /// The wait for an answer counts from the latest packet and not from the latest answer.
    CountFromLastSend,
    /// A path that flaps is not held back.
    NoBackOff,
    /// A path whose large datagrams vanish keeps its size.
    NeverFallBack,
    /// Packet numbers of a path start again from 0 when it does.
    RestartNumbers,
    /// A piece of a stream that came on another path before counts as new.
    TakeTwice,
    /// A peer that got another address is sent to at the old one.
    KeepOldAddress,
    /// An interface that came back counts as gone.
    StayDark,
    /// This end acknowledges packets that were never sent: no bug, but a peer that breaks the protocol.
    AckUnsent,
    /// An acknowledgement of a packet that was never sent counts as one of nothing.
    BelieveAnyAck,
    /// Whoever says that an incarnation is dead is believed.
    BelieveObituaries,
}

/// Which bug is put back, if one is: never, without the feature `testing`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Saboteur {
    #[cfg(feature = "testing")]
    bug: Option<Sabotage>,
}

impl Saboteur {
    #[cfg(feature = "testing")]
    pub(crate) const fn new(bug: Sabotage) -> Self {
        Self { bug: Some(bug) }
    }

    /// True if this bug is put back.
    #[cfg(feature = "testing")]
    pub(crate) fn is(self, bug: Sabotage) -> bool {
        self.bug == Some(bug)
    }

    /// False: it cannot be put back.
    #[cfg(not(feature = "testing"))]
    #[expect(clippy::unused_self, reason = "with the feature there is something to ask")]
    pub(crate) const fn is(self, _bug: Sabotage) -> bool {
        false
    }
}
