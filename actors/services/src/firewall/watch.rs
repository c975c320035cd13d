//! What others do to the engine's rules, and what other backends still have of them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use netloom_firewall::Ruleset;
use netloom_kernel::TableEvent;
use netloom_model::{RepairCause, Result};
use netloom_runtime::{Addr, Cause, Cx, Handle, OpCtx, Panicked, Reply, messages};

use super::actor::{FirewallActor, PATIENCE, REST};
use super::backend::{Backend, clean};
use super::message::{CleanDue, HostTouched, LookDue, TableTouched};
use super::state::Known;
use crate::panicked;

/// How long chains of iptables are left alone after they may have been touched, before they are looked at: a change comes
/// with many notifications, and the engine's own programs cause some too.
const SETTLE: Duration = Duration::from_millis(200);
/// They are left alone for this many times as long as a look took, so that looking is never what the host does most.
const SHARE: u32 = 10;
/// How often they are looked at where the kernel tells nobody who changes them, and the longest that they are left alone.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How often the removal of what other backends have is tried, each time after twice as long.
const CLEANINGS: u32 = 8;

/// What is under way beside transactions.
#[derive(Debug, Default)]
pub(super) struct Beside {
    /// A look is coming.
    looking: bool,
    /// How long the last look took.
    pub(super) took: Duration,
    /// What other backends have is being removed, or will be tried again.
    cleaning: bool,
    /// How often that was tried.
    cleanings: u32,
}

/// What other backends had is gone, or is not.
#[derive(Debug)]
pub(super) struct Cleaned(std::result::Result<Result<usize>, Panicked>);

messages! {
    Cleaned => ();
}

/// Tells the actor to look, for as long as it lives: nobody else does.
async fn look_now_and_then(me: Addr<FirewallActor>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if !me.is_alive() {
            return;
        }
        me.tell(&OpCtx::new(Cause::Tick("the firewall"), PATIENCE), TableTouched);
    }
}

impl FirewallActor {
    /// Listens to the kernel. Ends with it, or when this incarnation is gone.
    pub(super) fn listen(&mut self, cx: &Cx<'_, Self>) {
        let (mut news, me) = (self.deps.kernel.watch_tables(), cx.me());
        let (table, backend) = {
            let Known { wanted, backend, .. } = &*self.deps.state.get();
            (wanted.table(), backend.clone())
        };
        let told = backend.is_told();
        let ours = move |event| match event {
            TableEvent::Changed(changed) => backend.concerned_by(&changed, &table),
            TableEvent::Overrun => true,
        };
        self.deps.tasks.spawn(async move {
            while let Some(event) = news.next().await {
                // What comes together is told once.
                let mut touched = ours(event);
                while let Ok(event) = news.try_recv() {
                    touched |= ours(event);
                }
                if !me.is_alive() {
                    return;
                }
                let op = OpCtx::new(Cause::Event("somebody changed the firewall"), PATIENCE);
                if touched {
                    me.tell(&op, TableTouched);
                }
                // Whatever it was, it may stand in the way, or not any more.
                me.tell(&op, HostTouched);
            }
            if told {
                look_now_and_then(me).await;
            }
        });
        if !told {
            self.deps.tasks.spawn(look_now_and_then(cx.me()));
        }
    }

    /// Removes what other backends have of this engine, if that has not been done.
    pub(super) fn clean(&mut self, cx: &mut Cx<'_, Self>) {
        let known = self.deps.state.get();
        if known.cleaned || known.restoring || self.beside.cleaning || self.beside.cleanings >= CLEANINGS {
            return;
        }
        self.beside.cleaning = true;
        let (backend, config) = (known.backend.clone(), known.wanted.config().clone());
        drop(known);
        let (kernel, xtables) = (Arc::clone(&self.deps.kernel), self.deps.xtables.clone());
        let op = OpCtx::new(Cause::Event("the firewall"), PATIENCE);
        let deadline = op.deadline_std();
        let work = async move {
            let empty = Ruleset::new(config.clone()).contents();
            clean(&backend, &*kernel, xtables.as_deref(), (&config, &empty), deadline).await
        };
        cx.run(&op, work, Cleaned);
    }
}

impl Handle<TableTouched> for FirewallActor {
    fn handle(&mut self, op: OpCtx, _: TableTouched, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        if !matches!(self.deps.state.get().backend, Backend::Iptables { .. }) {
            self.deps.state.get().doubt(RepairCause::ForeignChange);
            return self.go_on(cx);
        }
        if !self.beside.looking {
            self.beside.looking = true;
            let settle = (self.beside.took * SHARE).clamp(SETTLE, LOOK_EVERY);
            // Not the actor's own work, for whose end whoever starts it again would wait.
            let me = cx.me();
            self.deps.tasks.spawn(async move {
                tokio::time::sleep(settle).await;
                me.tell(&op, LookDue);
            });
        }
    }
}

impl Handle<HostTouched> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: HostTouched, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.survey_soon(cx);
    }
}

impl Handle<LookDue> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: LookDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.beside.looking = false;
        self.deps.state.get().doubt(RepairCause::ForeignChange);
        self.go_on(cx);
    }
}

impl Handle<CleanDue> for FirewallActor {
    fn handle(&mut self, _: OpCtx, _: CleanDue, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.beside.cleaning = false;
        self.clean(cx);
    }
}

impl Handle<Cleaned> for FirewallActor {
    fn handle(&mut self, op: OpCtx, Cleaned(outcome): Cleaned, _: Reply<()>, cx: &mut Cx<'_, Self>) {
        self.beside.cleanings += 1;
        let outcome = outcome.unwrap_or_else(|cause| Err(panicked(&cause)));
        {
            let mut known = self.deps.state.get();
            known.cleaned = outcome.is_ok();
            known.leftovers = outcome.as_ref().err().map(ToString::to_string);
        }
        match outcome {
            Ok(0) => {}
            Ok(changes) => tracing::info!(changes, "removed what another backend had of this engine's rules"),
            Err(error) => {
                tracing::warn!(%error, "cannot remove what another backend has of this engine's rules");
                // Not the actor's own work, for whose end whoever starts it again would wait.
                let (me, rest) = (cx.me(), REST * 2_u32.saturating_pow(self.beside.cleanings));
                self.deps.tasks.spawn(async move {
                    tokio::time::sleep(rest).await;
                    me.tell(&op, CleanDue);
                });
                return;
            }
        }
        self.beside.cleaning = false;
    }
}
