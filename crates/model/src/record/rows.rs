//! Ports in records: bindings in a row are one entry with a count, so that a thousand of them are written as fast as one;
//! others that differ in their numbers only are pairs of these.

use std::net::IpAddr;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::seldom::Seldom;
use crate::spec::{PortBinding, Ports, Protocol, TransportPort};

/// A binding, and how many are behind it in a row.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    protocol: Protocol,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_ip: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_port: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host_port_end: Option<u16>,
    /// How many bindings there are, this one included.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    count: u16,
    /// Single bindings behind it, by the host's port and the container's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    further: Vec<[u16; 2]>,
}

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "what serde asks for")]
fn is_one(count: &u16) -> bool {
    *count == one()
}

impl Row {
    fn of(first: PortBinding) -> Self {
        let PortBinding { protocol, port, ip, host_ip, host_port, host_port_end } = first;
        Self { protocol, port, ip, host_ip, host_port, host_port_end, count: one(), further: Vec::new() }
    }

    fn first(&self) -> PortBinding {
        let &Self { protocol, port, ip, host_ip, host_port, host_port_end, count: _, further: _ } = self;
        PortBinding { protocol, port, ip, host_ip, host_port, host_port_end }
    }

    /// Takes a binding that is the next of the row.
    fn takes(&mut self, next: &PortBinding) -> bool {
        let fits = self.first().further(self.count) == Some(*next);
        self.count += u16::from(fits);
        fits
    }

    /// Takes a row of one that differs in its numbers only.
    fn pairs_with(&mut self, next: &Self) -> bool {
        let same = PortBinding { port: self.port, host_port: self.host_port, ..next.first() } == self.first();
        let single = self.count == one() && next.count == one() && self.host_port_end.is_none();
        let pair = self.host_port.and(next.host_port).filter(|_| same && single);
        self.further.extend(pair.map(|host_port| [host_port, next.port]));
        pair.is_some()
    }

    /// Its bindings; `None` for a row that runs out of ports.
    fn bindings(&self) -> Option<Vec<PortBinding>> {
        let first = self.first();
        let row = (1..self.count).map(|n| first.further(n));
        let pair = |[host_port, port]: &[u16; 2]| {
            Some(PortBinding { host_port: Some(*host_port), port: *port, ..first })
        };
        let further = row.chain(self.further.iter().map(pair));
        (self.count > 0).then(|| std::iter::once(Some(first)).chain(further).collect())?
    }
}

/// [`Ports`] as they are written.
#[derive(Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[derive(Default)]
struct Written {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    exposed: Vec<TransportPort>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    map: Vec<Row>,
}

pub(super) fn serialize<S: Serializer>(ports: &Seldom<Ports>, serializer: S) -> Result<S::Ok, S::Error> {
    let mut rows: Vec<Row> = Vec::new();
    for binding in &ports.map {
        if !rows.last_mut().is_some_and(|row| row.takes(binding)) {
            rows.push(Row::of(*binding));
        }
    }
    let mut map: Vec<Row> = Vec::new();
    for row in rows {
        if !map.last_mut().is_some_and(|last| last.pairs_with(&row)) {
            map.push(row);
        }
    }
    Written { exposed: ports.exposed.clone(), map }.serialize(serializer)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Seldom<Ports>, D::Error> {
    let Written { exposed, map: rows } = Written::deserialize(deserializer)?;
    let mut map = Vec::with_capacity(rows.len());
    for row in rows {
        let bindings = row.bindings().ok_or_else(|| {
            D::Error::custom(format!("{} is not the first of {} bindings in a row", row.first(), row.count))
        })?;
        map.extend(bindings);
    }
    Ok(Ports { exposed, map }.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::EndpointRecord;
    use crate::spec::EndpointSpec;

    fn record(map: impl IntoIterator<Item = PortBinding>) -> EndpointRecord {
        let spec = map.into_iter().fold(EndpointSpec::new("web"), EndpointSpec::publish);
        let (id, network) = ("e".repeat(64), "n".repeat(64));
        EndpointRecord::asked(id.parse().expect("an id"), network.parse().expect("an id"), spec)
    }

    fn binding(host: u16, port: u16) -> PortBinding {
        PortBinding::new(host, TransportPort::tcp(port))
    }

    #[test]
    fn a_row_is_one_entry_and_comes_back_in_its_order() {
        let row = (0..1_000).map(|n| binding(10_000 + n, 80 + n));
        let falling = [binding(9_001, 9_001), binding(9_000, 9_000), binding(9_001, 9_002)];
        let open = PortBinding::any(TransportPort::tcp(79));
        let range = PortBinding { host_port_end: Some(99), ..binding(90, 7) };
        let elsewhere =
            [binding(65_534, 1), binding(65_535, 2).on([192, 0, 2, 1].into()), binding(65_535, 3)];
        let all = record(row.chain(falling).chain([open, open, range, range]).chain(elsewhere));
        let json = serde_json::to_string(&all).expect("written");
        assert!(json.contains(r#"{"protocol":"tcp","port":80,"host_port":10000,"count":1000}"#), "{json}");
        assert_eq!(json.matches("count").count(), 1, "{json}");
        assert_eq!(serde_json::from_str::<EndpointRecord>(&json).expect("read"), all);
    }

    #[test]
    fn single_bindings_are_pairs_of_numbers() {
        let scattered = (0..1_000).map(|n| binding(10_000 + 2 * n, 20_000 - n));
        let elsewhere = [binding(1, 9).on([192, 0, 2, 1].into()), binding(2, 7).on([192, 0, 2, 1].into())];
        let range = PortBinding { host_port_end: Some(99), ..binding(90, 7) };
        let open = PortBinding::any(TransportPort::tcp(79));
        let all = record(scattered.chain(elsewhere).chain([binding(3, 3), range, binding(5, 2), open]));
        let json = serde_json::to_string(&all).expect("written");
        assert!(json.contains(r#""host_port":10000,"further":[[10002,19999],[10004,19998],"#), "{json}");
        assert_eq!(json.matches("protocol").count(), 6, "{json}");
        assert_eq!(serde_json::from_str::<EndpointRecord>(&json).expect("read"), all);
    }

    #[test]
    fn what_was_written_before_is_read_and_a_row_that_runs_out_is_refused() {
        let one = record([binding(8_080, 80)]);
        let json = serde_json::to_string(&one).expect("written");
        assert!(
            json.contains(r#""ports":{"map":[{"protocol":"tcp","port":80,"host_port":8080}]}"#),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<EndpointRecord>(&json).expect("read"), one);
        for (with, count) in [(r#""host_port":8080"#, 0), (r#""host_port":65535"#, 2), (r#""ip":null"#, 2)] {
            let bad = json.replace(r#""host_port":8080"#, &format!(r#"{with},"count":{count}"#));
            let error = serde_json::from_str::<EndpointRecord>(&bad).expect_err("refused").to_string();
            assert!(error.contains(&format!("{count} bindings in a row")), "{error}");
        }
    }
}
