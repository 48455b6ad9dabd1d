use crate::driver::UdpNode;
use crate::{Channel, Event, Lane, SendError};
use bytes::Bytes;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use futures_core::Stream;
use pils::NodeInstance;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use tokio::io::unix::AsyncFd;

/// The events of a node, as a stream that ends when the node has stopped.
///
/// Several streams, and other takers, of one node share its events: each goes to one of them. What was received is consumed by
/// the program: see [`UdpNode::consumed`].
#[derive(Debug)]
pub struct NodeEvents {
    node: UdpNode,
    fd: AsyncFd<OwnedFd>,
}

impl NodeEvents {
    /// The events of `node`. To be called within a runtime that drives I/O.
    ///
    /// # Errors
    /// If the runtime cannot watch a descriptor.
    pub fn new(node: &UdpNode) -> io::Result<Self> {
        let fd = super::watch(node.as_fd().try_clone_to_owned()?)?;
        Ok(Self { node: node.clone(), fd })
    }

    /// The next event; `None` when the node has stopped.
    pub async fn next(&mut self) -> Option<Event> {
        core::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for NodeEvents {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            if let Some(event) = self.node.poll_event() {
                return Poll::Ready(Some(event));
            }
            if self.node.stopped().is_some() {
                // What came between the two looks.
                return Poll::Ready(self.node.poll_event());
            }
            match ready!(self.fd.poll_read_ready(cx)) {
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => {
                    tracing::debug!(%error, "the runtime watches no more");
                    return Poll::Ready(None);
                }
            }
        }
    }
}

/// Sends a message to a node, waiting for room in its queue.
///
/// The stream of the node's events passes `Writable` to its taker; this looks again every few milliseconds instead, so that it
/// needs no part in it.
///
/// # Errors
/// [`SendError`], except that the queue is full.
pub async fn send(
    node: &UdpNode,
    to: NodeInstance,
    lane: Lane,
    channel: Channel,
    message: Bytes,
) -> Result<(), SendError> {
    loop {
        match node.send(to, lane, channel, message.clone()) {
            Err(SendError::Full { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            other => return other,
        }
    }
}
