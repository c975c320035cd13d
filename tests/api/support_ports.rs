//! Whether what is said about published ports is true.

use std::collections::BTreeSet;
use std::net::IpAddr;

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
    // What the engine passes on itself is what comes to its own port.
    let served = listed.iter().flat_map(|ports| &ports.served).filter_map(|served| {
        let front = (served.port.address, served.port.port, served.last);
        served.via.map(|own| (front, own))
    });
    let (fronts, own): (BTreeSet<_>, BTreeSet<_>) = served.unzip();
    let (to_engine, where_it_is) = to_engine(kernel).await?;
    if (&fronts, &own) != (&to_engine, &where_it_is) {
        return Err(format!(
            "the engine passes on {fronts:?} at {own:?}; the firewall leads {to_engine:?} to {where_it_is:?}"
        ));
    }
    let led = led(kernel).await?;
    let numbers: BTreeSet<_> = has.iter().map(|(protocol, port)| (protocol.number(), *port)).collect();
    if numbers == led {
        Ok(())
    } else {
        Err(format!("endpoints have {numbers:?}; the firewall leads {led:?}"))
    }
}

/// Addresses and ports, the first and the last, that the engine's table leads to the engine, and to which ports of it.
async fn to_engine(kernel: &SimKernel) -> Result<(BTreeSet<(IpAddr, u16, u16)>, BTreeSet<u16>), String> {
    let deadline = std::time::Instant::now() + PATIENCE;
    let table = kernel.table(Table::inet("netloom"), deadline).await.map_err(|error| error.to_string())?;
    let (mut fronts, mut own) = (BTreeSet::new(), BTreeSet::new());
    for (set, elements) in table.iter().flat_map(|table| &table.sets) {
        let v4 = set.name.ends_with('4');
        let every = if v4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        for element in elements {
            let last = element.end.as_deref().and_then(<[_]>::last).or(element.key.last());
            match (&*set.name, &*element.key, last, &*element.value) {
                ("switchboard", [Datum::Protocol(6)], _, [Datum::Port(port)]) => drop(own.insert(*port)),
                (name, key, Some(Datum::Port(last)), []) if name.starts_with("led") => match key {
                    [Datum::Protocol(6), Datum::Port(first)] => drop(fronts.insert((every, *first, *last))),
                    [Datum::Address(address), Datum::Protocol(6), Datum::Port(first)] => {
                        fronts.insert((*address, *first, *last));
                    }
                    other => return Err(format!("{name} has {other:?}")),
                },
                (name, ..) if name.starts_with("led") || name == "switchboard" => {
                    return Err(format!("{name} has {element:?}"));
                }
                _ => {}
            }
        }
    }
    Ok((fronts, own))
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
