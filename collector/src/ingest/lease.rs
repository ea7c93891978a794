//! Carries out within a transaction what viewers of a site want: its agents are told to send each poll at once, for how long,
//! or no more. Whether they must be told is decided in [`live`](crate::live).

use gapless_common::id::SiteId;
use gapless_common::time::Timestamp;

use super::apply::{Apply, Done};
use crate::ledger::AgentNo;
use crate::store::leases;

/// What a viewer of a site wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Viewing {
    /// Which site.
    pub site: SiteId,
    /// For so many minutes from now on; `None`: no more.
    pub minutes: Option<u32>,
}

impl Apply<'_, '_> {
    /// A site is watched until then.
    pub(super) fn watch(&mut self, site: i64, until: Timestamp) -> Done {
        leases::put(self.batch.connection, site, until)?;
        for agent in leases::gathering(self.batch.connection, site)? {
            self.tell_lease(agent, until)?;
        }
        Ok(())
    }

    /// Nobody watches a site any more: those that were told are told so.
    pub(super) fn unwatch(&mut self, site: i64) -> Done {
        let (connection, now) = (self.batch.connection, self.batch.now);
        leases::end(connection, site)?;
        for agent in leases::gathering(connection, site)? {
            if leases::may_hold(connection, agent, now)? {
                // An instant that is past by every clock: by that of an agent that is behind, now is still to come.
                self.tell_lease(agent, Timestamp(0))?;
            }
        }
        Ok(())
    }

    /// An agent was born on a new connection: it may be a new process, which knows of no lease.
    pub(super) fn lease_of_born(&mut self, agent: AgentNo) -> Done {
        match leases::of_agent(self.batch.connection, agent, self.batch.now)? {
            // It goes out with the others at its birth.
            Some(until) => leases::tell(self.batch.connection, agent, until, self.batch.now).map(drop),
            None => Ok(()),
        }
    }

    fn tell_lease(&mut self, agent: AgentNo, until: Timestamp) -> Done {
        let told = leases::tell(self.batch.connection, agent, until, self.batch.now)?;
        self.answers.commands.extend(told.map(|id| (agent, id)));
        Ok(())
    }
}
