use super::{BroadcastKind, Medium, MemoryKind, MulticastKind, Opening, SerialKind, UdpKind};
use crate::driver::SetupError;
use core::fmt::Debug;
use pils::Value;
use pils::field::Fields;
use pils::plugin::Registry;
use std::net::SocketAddr;
use std::sync::Arc;

/// The plug-in type of media.
pub const MEDIA: &str = "communication medium";

/// A kind of medium: opens one from its parameters. Object-safe; a plug-in of the type [`MEDIA`].
pub trait MediumKind: Debug + Send + Sync {
    /// The parameters it takes.
    fn fields(&self) -> Fields;

    /// Opens one. `parameters` passed a check against [`MediumKind::fields`] and has the defaults filled in.
    ///
    /// # Errors
    /// [`SetupError`]: says what to do.
    fn open(&self, parameters: &Value, opening: &Opening) -> Result<Box<dyn Medium>, SetupError>;
}

/// The registry with the kinds of this crate.
///
/// # Panics
/// Never: the names are right and each is there once.
#[must_use]
pub fn media() -> Registry<dyn MediumKind> {
    let registry: Registry<dyn MediumKind> = Registry::new(MEDIA);
    let kinds: [(&str, Arc<dyn MediumKind>); 5] = [
        ("broadcast", Arc::new(BroadcastKind)),
        ("memory", Arc::new(MemoryKind)),
        ("multicast", Arc::new(MulticastKind)),
        ("serial", Arc::new(SerialKind)),
        ("udp", Arc::new(UdpKind)),
    ];
    for (name, kind) in kinds {
        registry.register(name, env!("CARGO_PKG_VERSION"), kind).expect("each name is registered once");
    }
    registry
}

/// A medium to be opened: its kind and its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct MediumSpec {
    /// The kind, `udp`.
    pub kind: String,
    /// Its parameters, named.
    pub parameters: Value,
}

impl MediumSpec {
    /// A medium of this kind.
    #[must_use]
    pub fn new<const N: usize>(kind: &str, parameters: [(&str, Value); N]) -> Self {
        Self { kind: kind.to_owned(), parameters: Value::from(parameters) }
    }

    /// UDP at one address of this machine. Port 0 takes any free port.
    #[must_use]
    pub fn udp(address: SocketAddr) -> Self {
        Self::new("udp", [("address", address.to_string().into())])
    }

    /// UDP at whatever address an interface has: the first one of IPv4. Follows the interface when its address changes.
    #[must_use]
    pub fn interface(name: &str, port: u16) -> Self {
        Self::new("udp", [("interface", name.into()), ("port", i64::from(port).into())])
    }

    /// UDP multicast to `group` on the interface that has the address or name `interface`.
    #[must_use]
    pub fn multicast(group: SocketAddr, interface: &str) -> Self {
        Self::new("multicast", [("group", group.to_string().into()), ("interface", interface.into())])
    }

    /// UDP broadcast to `address`, the broadcast address of a local network and the port.
    #[must_use]
    pub fn broadcast(address: SocketAddr) -> Self {
        Self::new("broadcast", [("address", address.to_string().into())])
    }

    /// A serial line. Its address, at both ends, is [`port_address`](super::port_address) of `port`.
    #[must_use]
    pub fn serial(device: &str, speed: u32, port: u32) -> Self {
        let (speed, port) = (i64::from(speed), i64::from(port));
        Self::new("serial", [("device", device.into()), ("speed", speed.into()), ("port", port.into())])
    }

    /// A port of a hub within this process.
    #[must_use]
    pub fn memory(hub: &str, port: u32) -> Self {
        Self::new("memory", [("hub", hub.into()), ("port", i64::from(port).into())])
    }

    /// Opens it.
    ///
    /// # Errors
    /// No such kind, wrong parameters, or what the system refused.
    pub fn open(
        &self,
        media: &Registry<dyn MediumKind>,
        opening: &Opening,
    ) -> Result<Box<dyn Medium>, SetupError> {
        let kind = media.get(&self.kind)?;
        let parameters = kind
            .fields()
            .validate(&self.parameters)
            .map_err(|errors| SetupError::Parameters { medium: self.kind.clone(), errors })?;
        kind.open(&parameters, opening)
    }
}

impl From<SocketAddr> for MediumSpec {
    fn from(address: SocketAddr) -> Self {
        Self::udp(address)
    }
}

/// A text parameter.
pub(super) fn text<'a>(parameters: &'a Value, name: &str) -> Option<&'a str> {
    parameters.get(name).and_then(Value::as_text).filter(|text| !text.is_empty())
}

/// A number that the description keeps within the range of `T`.
pub(super) fn number<T: TryFrom<i64>>(parameters: &Value, name: &str) -> Option<T> {
    parameters.get(name).and_then(Value::as_int).and_then(|n| T::try_from(n).ok())
}

/// A switch.
pub(super) fn switch(parameters: &Value, name: &str) -> bool {
    parameters.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// An address with a port.
pub(super) fn address(
    medium: &str,
    parameters: &Value,
    name: &'static str,
) -> Result<SocketAddr, SetupError> {
    let text = text(parameters, name).unwrap_or_default();
    text.parse().map_err(|_wrong| {
        super::setting(
            medium,
            name,
            text,
            "write an address with its port: 192.0.2.1:5405 or [2001:db8::1]:5405",
        )
    })
}
