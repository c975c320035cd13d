//! Giving every endpoint of a sandbox another name.

use std::fmt;

use netloom_actor_network::{InspectEndpoint, RenameEndpoint};
use netloom_actor_services::SagaWorld;
use netloom_model::Result;
use netloom_model::record::WayOut;
use netloom_runtime::OpCtx;

use super::{Undone, World};
use crate::member::Member;
use crate::turns::Kind;

/// Renames all of them or none. The way out keeps its name, which nobody looks up.
pub(crate) async fn rename(world: World, op: OpCtx, members: Vec<Member>, name: String) -> Result<()> {
    let sandbox = world.sandbox;
    let object = fmt::from_fn(move |f| write!(f, "sandbox {}", sandbox.short()));
    let turn = world.turns.begin(Kind::Name);
    let renamed = world.saga(&op, "rename_sandbox", object, async |saga| {
        for Member { network, endpoint, .. } in
            members.iter().filter(|member| member.way_out != WayOut::Provided)
        {
            let (network, endpoint) = (*network, *endpoint);
            let inspect = world.ask_network(&op, network, InspectEndpoint(endpoint));
            let old = saga.step("look at its name", None, inspect).await?.name;
            let rename = RenameEndpoint { endpoint, name: name.clone() };
            let rename = world.ask_network(&op, network, rename);
            saga.step("rename", Undone::Name(network, endpoint, old).unless_later(turn), rename).await?;
        }
        Ok(())
    });
    renamed.await
}
