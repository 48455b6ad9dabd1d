use std::net::{Ipv6Addr, SocketAddr};

/// The first 96 bits of addresses that are not of a network: locally assigned, and ours by these letters alone.
const PREFIX: [u16; 6] = [0xfd6f, 0x6366, 0x706f, 0x7274, 0, 0];

/// The address of an end that has none of a network, such as a serial line: both ends and the configuration use the same
/// number for one line.
#[must_use]
pub fn port_address(number: u32) -> SocketAddr {
    let [a, b, c, d, e, f] = PREFIX;
    let [high, low] = [(number >> 16) as u16, (number & 0xffff) as u16];
    SocketAddr::from((Ipv6Addr::new(a, b, c, d, e, f, high, low), 1))
}

/// The number in an address that [`port_address`] made.
#[must_use]
pub fn port_number(address: SocketAddr) -> Option<u32> {
    let SocketAddr::V6(v6) = address else { return None };
    let [a, b, c, d, e, f, high, low] = v6.ip().segments();
    ([a, b, c, d, e, f] == PREFIX).then(|| u32::from(high) << 16 | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_address_and_no_network_has_it() {
        for number in [0, 1, 0xffff, 0x1_0000, u32::MAX] {
            assert_eq!(port_number(port_address(number)), Some(number));
        }
        assert_ne!(port_address(1), port_address(2));
        assert_eq!(port_number(SocketAddr::from(([10, 0, 0, 1], 1))), None);
        assert_eq!(port_number(SocketAddr::from((Ipv6Addr::LOCALHOST, 1))), None);
    }
}
