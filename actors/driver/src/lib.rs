//! Rank 2: one actor for each driver type. It turns messages into calls of a [`netloom_drivers::Driver`], and keeps the
//! promise that the driver was given: what fails half-way is taken back before the answer goes out.

mod actor;
mod desired;
mod message;
mod outside;

pub use actor::{DriverActor, DriverDeps};
pub use desired::DesireDriverNetwork;
pub use message::{
    CreateDriverEndpoint, CreateDriverNetwork, DeleteDriverEndpoint, DeleteDriverNetwork, Discovered,
    InspectDriverEndpoint, JoinDriverEndpoint, LeaveDriverEndpoint, ProgramConnectivity, RevokeConnectivity,
    SurveyDriverNetwork, TableChanged,
};
