use std::collections::BTreeMap;
use std::net::IpAddr;

/// The network interfaces of a machine at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interfaces(pub BTreeMap<u32, Interface>);

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its name, `eth0`.
    pub name: String,
    /// Switched on.
    pub up: bool,
    /// Has a carrier.
    pub carrier: bool,
    /// Its addresses, in the order in which the system lists them.
    pub addresses: Vec<IpAddr>,
}

impl Interface {
    /// True if datagrams can pass.
    #[must_use]
    pub const fn works(&self) -> bool {
        self.up && self.carrier
    }
}

impl Interfaces {
    /// The interface of this name, with its index.
    #[must_use]
    pub fn named(&self, name: &str) -> Option<(u32, &Interface)> {
        self.0.iter().find(|(_, i)| i.name == name).map(|(index, i)| (*index, i))
    }

    /// The interface that has this address, with its index.
    #[must_use]
    pub fn with_address(&self, address: IpAddr) -> Option<(u32, &Interface)> {
        self.0.iter().find(|(_, i)| i.addresses.contains(&address)).map(|(index, i)| (*index, i))
    }

    /// The first address of the interface of this name that is of the family asked for and good beyond the link.
    #[must_use]
    pub fn address_of(&self, name: &str, v6: bool) -> Option<IpAddr> {
        let (_, interface) = self.named(name)?;
        let fits = |a: &&IpAddr| match a {
            IpAddr::V4(_) => !v6,
            IpAddr::V6(ip) => v6 && ip.segments()[0] & 0xffc0 != 0xfe80,
        };
        interface.addresses.iter().find(fits).copied()
    }
}
