//! In steady state two endpoints exchange messages without asking the allocator for anything.
#![allow(clippy::allow_attributes, clippy::unwrap_used, reason = "a test")]

mod net;

use net::{Net, message};
use ocf_comm::{Channel, Endpoint, Event, Input, Lane, Output, PathId, Received, Transmit};
use pils::{Instant, Layer as _};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

std::thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Counts what this thread asks for.
struct Counting;

fn count() {
    COUNT.with(|count| count.set(count.get() + 1));
}

#[expect(unsafe_code, reason = "an allocator that counts; it passes everything on to the system's")]
// SAFETY: every call is passed on unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Carries out what an endpoint wants; frees what it delivered.
fn drain(endpoint: &mut Endpoint, now: Instant, out: &mut Vec<Transmit>) -> u64 {
    let mut messages = 0;
    while let Some(event) = endpoint.poll_event() {
        if let Event::Message { from, lane, message, .. } = event {
            messages += 1;
            endpoint.consumed(now, from, lane, message.len());
        }
    }
    while let Some(output) = endpoint.poll_output() {
        if let Output::Transmit(transmit) = output {
            out.push(transmit);
        }
    }
    messages
}

fn pass(from: &mut Endpoint, to: &mut Endpoint, now: Instant, transmits: &mut Vec<Transmit>) {
    for mut t in transmits.drain(..) {
        let (path, segment) = (PathId(0), t.segment);
        let from_address = net::address(0, 0);
        to.handle(now, Input::Received(Received { path, from: from_address, segment, data: &mut t.data }));
        from.recycle(t.data);
    }
}

#[test]
fn messages_pass_without_an_allocation_each() {
    for (size, burst) in [(64, 400), (1024, 60), (30_000, 4)] {
        let mut net = Net::connected(1, 2, 1);
        net.run(100 * net::MS);
        let to = net.nodes[1].instance;
        let mut now = net.now;
        let (mut a, mut b) = (net.nodes[0].endpoint.take().unwrap(), net.nodes[1].endpoint.take().unwrap());
        let payload = message(1, size);
        let (mut forth, mut back, mut messages) = (Vec::new(), Vec::new(), 0);
        let mut start = 0;
        for turn in 0..400 {
            if turn == 200 {
                (start, messages) = (COUNT.get(), 0);
            }
            now += core::time::Duration::from_micros(100);
            for _ in 0..burst {
                a.send(now, to, Lane::Small, Channel::APPLICATION, payload.clone()).unwrap();
            }
            drain(&mut a, now, &mut forth);
            pass(&mut a, &mut b, now, &mut forth);
            messages += drain(&mut b, now, &mut back);
            pass(&mut b, &mut a, now, &mut back);
        }
        let allocations = COUNT.get() - start;
        assert!(messages > 180 * burst, "{messages} messages passed");
        assert!(allocations < messages / 100, "{size} B: {allocations} allocations for {messages} messages");
    }
}
