//! Groups whose order somebody else makes: items go out as they are queued, and come back one by one, in one order for all.

use super::{Groups, Sync};
use crate::table::Table;
use crate::wire::{Item, Message};
use crate::{Config, Event, GroupPromises, Output, Position};
use bytes::{Bytes, BytesMut};
use ocf_membership::View;
use pils::NodeInstance;
use pils::wire::{ParseError, Reader};

impl Groups {
    /// A core without a stream of its own.
    pub(crate) fn ordered_elsewhere(config: Config, local: NodeInstance) -> Self {
        Self { elsewhere: Some(Position::default()), ..Self::new(config, local) }
    }

    pub(crate) const fn promised(&self) -> GroupPromises {
        let (message_max, state_max) = (self.config.message_max, self.config.state_max);
        if self.elsewhere.is_some() {
            GroupPromises::agreed_only(message_max, state_max)
        } else {
            GroupPromises::whole(message_max, state_max)
        }
    }

    /// Own items that are to be ordered, about one batch; empty if there are none, or nothing may be sent.
    pub(crate) fn take_unordered(&mut self) -> Vec<Item> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        if self.is_frozen() || self.suspended || self.sync != Sync::Synced {
            return items;
        }
        while let Some(item) = self.queue.front() {
            let size = item.wire_len();
            if bytes > 0 && bytes + size > self.config.batch {
                break;
            }
            bytes += size;
            items.extend(self.queue.pop_front());
        }
        self.stats.sent += items.len() as u64;
        self.stats.batches += u64::from(!items.is_empty());
        items
    }

    /// The next item of the order.
    pub(crate) fn on_ordered(&mut self, sender: NodeInstance, item: Item) {
        let Some(at) = &mut self.elsewhere else { return };
        at.sequence += 1;
        let position = *at;
        if sender == self.local {
            self.own_bytes = self.own_bytes.saturating_sub(item.cost());
            self.say_writable();
        }
        self.stats.delivered += 1;
        self.apply(position, (sender, position.sequence), item);
    }

    /// A part of a state that was carried to this node.
    pub(crate) fn on_carried(&mut self, from: NodeInstance, message: &Bytes) {
        match Message::read(&mut Reader::new(message), message) {
            Ok(Message::State(piece)) => self.on_piece(from, &piece),
            Ok(_) => self.stats.dropped.foreign += 1,
            Err(_) => self.stats.dropped.malformed += 1,
        }
    }

    /// Sends the next slice of a state that this node gives, if there is one. Here no timer does that.
    pub(crate) fn give_on(&mut self) {
        self.cut_slice();
    }

    /// The table of groups, for those who enter the next view without it.
    pub(crate) fn table_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.table.write(&mut out);
        out.freeze()
    }

    /// Enters a view with what it has; `again` are own items that were never ordered.
    pub(crate) fn enter_with_state(&mut self, view: &View, again: impl DoubleEndedIterator<Item = Item>) {
        for item in again.rev() {
            self.stats.resubmitted += 1;
            self.queue.push_front(item);
        }
        self.begin(view);
        let mut effects = Vec::new();
        self.table.enter(view, &mut effects);
        self.carry_out(Position { view: view.number, sequence: 0 }, effects);
        self.become_synced();
    }

    /// Enters a view anew, with the table of those who go on; without one if nobody does.
    ///
    /// # Errors
    /// The bytes are no table; nothing changed.
    pub(crate) fn enter_anew(&mut self, view: &View, table: Option<&[u8]>) -> Result<(), ParseError> {
        let mut table = match table {
            Some(bytes) => Table::read(&mut Reader::new(bytes), &self.config, self.local)?,
            None => Table::new(&self.config, self.local),
        };
        if !self.primary {
            self.drop_untold();
        }
        self.queue.clear();
        self.begin(view);
        self.reset_locals();
        // Of what follows nothing concerns this node: it is in no group yet.
        table.enter(view, &mut Vec::new());
        self.table = table;
        self.become_synced();
        Ok(())
    }

    fn begin(&mut self, view: &View) {
        self.close_gates();
        self.primary = true;
        self.suspended = false;
        self.view = Some(view.clone());
        self.elsewhere = Some(Position { view: view.number, sequence: 0 });
        self.own_bytes = self.queue.iter().map(Item::cost).sum();
        self.drop_passed(Position { view: view.number, sequence: 0 });
        self.outputs.push_back(Output::Event(Event::View(view.clone())));
        self.say_writable();
    }
}
