//! What is asked of an engine as a whole: its configuration, reconciliation, differences; and what is done beside it.

use std::path::PathBuf;

use netloom::kernel::{LinkTag, Op};
use netloom::{Engine, EngineConfig, LiveSandbox, LiveSet, ReconcileReport, Result, SandboxKey};
use serde::Deserialize;
use toml::{Table, Value};

use super::Machine;
use super::expect::Differences;
use super::names::Names;
use super::run::{Found, Run, told};
use super::step::{Act, Key};

/// What is expected of a reconciliation. What is not named must be empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ReconcileLook {
    /// Containers.
    released: Vec<String>,
    /// Links, then namespaces.
    removed: Vec<String>,
    /// A part of the text of each.
    left: Vec<String>,
    /// Containers, and identifiers as `$name`.
    unknown: Vec<String>,
}

impl ReconcileLook {
    fn compare(&self, found: &ReconcileReport, names: &Names, differences: &mut Differences) -> Found<()> {
        let released = found.released.iter().map(|released| released.container_id.clone()).collect();
        let removed = found.removed.iter().map(ToString::to_string).collect();
        let unknown = found.unknown.iter().map(ToString::to_string).collect::<Vec<_>>();
        let left: Vec<_> = found.left.iter().map(ToString::to_string).collect();
        differences.check("released", Some(&self.released), &released);
        differences.check("removed", Some(&self.removed), &removed);
        compare_parts("left", &self.left, &left, names, differences)?;
        compare_parts("unknown", &self.unknown, &unknown, names, differences)
    }
}

/// Compares texts with what must be in them, one for each.
fn compare_parts(
    what: &str,
    expected: &[String],
    found: &[String],
    names: &Names,
    differences: &mut Differences,
) -> Found<()> {
    let parts = expected.iter().map(|part| names.resolve_short(part)).collect::<Found<Vec<_>>>()?;
    let fits = parts.len() == found.len() && parts.iter().zip(found).all(|(part, text)| text.contains(part));
    if !fits {
        differences.add(what, &parts, found);
    }
    Ok(())
}

/// What lives, by containers and by identifiers (`$container`).
pub(super) fn live_list(names: &Names, live: &[String]) -> Found<Vec<LiveSandbox>> {
    live.iter().map(|text| one_that_lives(names, text)).collect()
}

fn one_that_lives(names: &Names, text: &str) -> Found<LiveSandbox> {
    if text.starts_with('$') {
        let id: netloom::SandboxId = names.resolve(text)?.parse().map_err(told)?;
        return Ok(id.into());
    }
    Ok(text.into())
}

/// The configuration in force with these keys changed.
pub(super) fn changed(present: &EngineConfig, keys: &Table) -> Found<EngineConfig> {
    let mut whole = Table::try_from(present).map_err(told)?;
    whole.extend(keys.clone());
    Value::Table(whole).try_into().map_err(told)
}

/// What a configuration has for these keys, where it is something else.
fn compare_configuration(present: &EngineConfig, keys: &Table) -> Found<()> {
    // Through the types, so that defaults within a key need not be written.
    let expected = Table::try_from(changed(present, keys)?).map_err(told)?;
    let found = Table::try_from(present).map_err(told)?;
    let mut differences = Differences::default();
    for key in keys.keys() {
        if expected.get(key) != found.get(key) {
            differences.add(key, &expected.get(key), &found.get(key));
        }
    }
    differences.into_result()
}

impl<M: Machine> Run<'_, M> {
    /// The rest of the steps that several callers may do at once.
    pub(super) async fn act_on_whole(&self, engine: &Engine, act: &Act) -> Found<Result<()>> {
        Ok(match act {
            Act::Reserve { network, name, kept } => match self.network(network) {
                Ok(network) => network.reserve_address(name, kept.ipv4, kept.ipv6).await,
                Err(error) => Err(error),
            },
            Act::ReleaseReservation { network, name } => match self.network(network) {
                Ok(network) => network.release_reservation(name).await,
                Err(error) => Err(error),
            },
            Act::RenameSandbox { container, name } => match self.sandbox(container) {
                Ok(sandbox) => sandbox.rename(name).await,
                Err(error) => Err(error),
            },
            Act::Refresh(spec) => match self.sandbox(&spec.container_id) {
                Ok(sandbox) => sandbox.refresh(spec.clone()).await,
                Err(error) => Err(error),
            },
            Act::SetKey { container, key } => {
                let path = self.key(key)?;
                match self.sandbox(container) {
                    Ok(sandbox) => sandbox.set_key(SandboxKey::Path(path)).await,
                    Err(error) => Err(error),
                }
            }
            Act::Reload(keys) => {
                let config = changed(&engine.config(), keys)?;
                engine.controller().reload(config).await
            }
            Act::Configuration(keys) => {
                compare_configuration(&engine.config(), keys)?;
                Ok(())
            }
            Act::Mark(name) => {
                let mark = engine.mark();
                self.names.borrow_mut().save(name, mark.engine.to_string());
                self.marks.borrow_mut().insert(name.clone(), mark);
                Ok(())
            }
            Act::Reconcile { live, since, look } => {
                let mark = match since {
                    Some(name) => {
                        let kept = self.marks.borrow().get(name).copied();
                        kept.ok_or_else(|| format!("there is no mark {name:?}"))?
                    }
                    None => engine.mark(),
                };
                let live = live_list(&self.names.borrow(), live)?;
                match engine.reconcile(LiveSet::since(mark).with_all(live)).await {
                    Ok(report) => {
                        let mut differences = Differences::default();
                        look.compare(&report, &self.names.borrow(), &mut differences)?;
                        differences.into_result()?;
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            Act::Differs(expected) => match engine.diff().await {
                Ok(found) => {
                    let names = self.names.borrow();
                    let found: Vec<_> = found.iter().map(ToString::to_string).collect();
                    let mut differences = Differences::default();
                    compare_parts("differs", expected, &found, &names, &mut differences)?;
                    differences.into_result()?;
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Act::StrayBridge(name) => {
                let tag = LinkTag::new(engine.identity(), "network", "of nobody");
                let name = name.parse().map_err(told)?;
                self.execute(vec![Op::CreateBridge { name, mac: None, mtu: None, tag }]).await?;
                Ok(())
            }
            Act::StrayNamespace(name) => {
                self.execute(vec![Op::CreateNetns { name: name.parse().map_err(told)?, ipv6: true }]).await?;
                Ok(())
            }
            other => return Err(format!("{other:?} is carried out elsewhere")),
        })
    }

    fn key(&self, key: &Key) -> Found<PathBuf> {
        match key {
            Key::Path(path) => Ok(path.into()),
            Key::Foreign(name) => {
                self.outside.get(name).cloned().ok_or_else(|| format!("nobody made a namespace {name:?}"))
            }
        }
    }

    /// Ends those that made namespaces outside; nothing of ours may be left in them.
    pub(super) async fn end_outside(&mut self) -> Found<()> {
        for name in std::mem::take(&mut self.outside).into_keys() {
            let left = self.machine.end_namespace(&name).await;
            if !left.is_empty() {
                return Err(format!("left in the namespace of {name}: {}", left.join("; ")));
            }
        }
        Ok(())
    }
}
