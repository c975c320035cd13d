//! Whether what is said about published ports is true.

use std::collections::BTreeSet;

use netloom::kernel::Kernel;
use netloom::kernel::nft::{Datum, Table};
use netloom::testkit::SimKernel;
use netloom::{Engine, HostPort, Protocol};

use super::PATIENCE;

/// Checks that endpoints, the ports service, the host's sockets and the firewall agree about who has which port. Meant for
/// a moment at which nothing runs.
pub(crate) async fn check(engine: &Engine, kernel: &SimKernel) -> Result<(), String> {
    let picture = engine.inspect().await.map_err(|error| error.to_string())?;
    let endpoints = || picture.networks.iter().flat_map(|network| &network.endpoints);
    let said: BTreeSet<(String, HostPort)> = endpoints()
        .flat_map(|endpoint| {
            let ports = endpoint.published.0.iter().flat_map(|published| published.host.each());
            ports.map(|port| (endpoint.id.to_string(), port))
        })
        .collect();
    let listed = engine.controller().ports().await.map_err(|error| error.to_string())?;
    if let Some(leaving) = listed.iter().find(|ports| ports.leaving || !ports.unheld.is_empty()) {
        return Err(format!("ports are on their way or not held: {leaving:?}"));
    }
    let taken: BTreeSet<_> = listed
        .iter()
        .flat_map(|ports| {
            let each = ports.ports.iter().flat_map(netloom::HostPorts::each);
            each.map(|port| (ports.endpoint.id.clone(), port))
        })
        .collect();
    if taken != said {
        return Err(format!("endpoints say they have {said:?}; taken are {taken:?}"));
    }
    // One socket holds a port of every address, of both families.
    let any = |ports: &mut dyn Iterator<Item = HostPort>| -> BTreeSet<(Protocol, u16)> {
        ports.map(|port| (port.protocol, port.port)).collect()
    };
    let (has, held) =
        (any(&mut said.iter().map(|(_, port)| *port)), any(&mut kernel.sim_ports().held().into_iter()));
    if has != held {
        return Err(format!("endpoints have {has:?}; sockets hold {held:?}"));
    }
    let led = led(kernel).await?;
    let numbers: BTreeSet<_> = has.iter().map(|(protocol, port)| (protocol.number(), *port)).collect();
    if numbers == led {
        Ok(())
    } else {
        Err(format!("endpoints have {numbers:?}; the firewall leads {led:?}"))
    }
}

/// The ports that the engine's table leads somewhere, of every address.
async fn led(kernel: &SimKernel) -> Result<BTreeSet<(u8, u16)>, String> {
    let deadline = std::time::Instant::now() + PATIENCE;
    let table = kernel.table(Table::inet("netloom"), deadline).await.map_err(|error| error.to_string())?;
    let sets = table.iter().flat_map(|table| &table.sets);
    let elements = sets.filter(|(set, _)| set.name.starts_with("any")).flat_map(|(_, elements)| elements);
    let mut led = BTreeSet::new();
    for element in elements {
        let [Datum::Protocol(protocol), Datum::Port(first)] = &*element.key else {
            return Err(format!("an element that says something else: {element:?}"));
        };
        let last = match element.end.as_deref() {
            Some([_, Datum::Port(last)]) => *last,
            _ => *first,
        };
        led.extend((*first..=last).map(|port| (*protocol, port)));
    }
    Ok(led)
}
