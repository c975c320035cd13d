//! What a driver actor can be asked.

use std::collections::BTreeMap;

use netloom_drivers::{
    CreateEndpoint, CreateNetwork, Discovery, EndpointCreated, ExternalConnectivity, Join, Joined, Leave,
    Left, NetworkCreated, OperInfo, Programmed, TableEvent,
};
use netloom_model::{EndpointId, NetworkId, Result};
use netloom_runtime::messages;

/// Look at what is there before a network is made.
#[derive(Clone, Debug)]
pub struct SurveyDriverNetwork(pub CreateNetwork);

/// Make a network.
#[derive(Clone, Debug)]
pub struct CreateDriverNetwork(pub CreateNetwork);

/// Delete a network; succeeds when it is not there.
#[derive(Clone, Copy, Debug)]
pub struct DeleteDriverNetwork(pub NetworkId);

/// Make an endpoint.
#[derive(Clone, Debug)]
pub struct CreateDriverEndpoint(pub CreateEndpoint);

/// Delete an endpoint; succeeds when it is not there.
#[derive(Clone, Copy, Debug)]
pub struct DeleteDriverEndpoint(pub NetworkId, pub EndpointId);

/// What the driver knows about an endpoint.
#[derive(Clone, Copy, Debug)]
pub struct InspectDriverEndpoint(pub NetworkId, pub EndpointId);

/// Bring an endpoint into a sandbox.
#[derive(Clone, Debug)]
pub struct JoinDriverEndpoint(pub Join);

/// Cut an endpoint off from its sandbox; succeeds when it is not in one.
#[derive(Clone, Copy, Debug)]
pub struct LeaveDriverEndpoint(pub Leave);

/// Let an endpoint be reached from outside.
#[derive(Clone, Debug)]
pub struct ProgramConnectivity(pub ExternalConnectivity);

/// Take that back.
#[derive(Clone, Copy, Debug)]
pub struct RevokeConnectivity(pub NetworkId, pub EndpointId);

/// Discovery has something to say.
#[derive(Clone, Debug)]
pub struct Discovered(pub Discovery);

/// An entry of a gossip table changed on another node.
#[derive(Clone, Debug)]
pub struct TableChanged(pub TableEvent);

messages! {
    SurveyDriverNetwork => Result<BTreeMap<String, String>>;
    CreateDriverNetwork => Result<NetworkCreated>;
    DeleteDriverNetwork => Result<()>;
    CreateDriverEndpoint => Result<EndpointCreated>;
    DeleteDriverEndpoint => Result<()>;
    InspectDriverEndpoint => Result<OperInfo>;
    JoinDriverEndpoint => Result<Joined>;
    LeaveDriverEndpoint => Result<Left>;
    ProgramConnectivity => Result<Programmed>;
    RevokeConnectivity => Result<()>;
    Discovered => ();
    TableChanged => ();
}
