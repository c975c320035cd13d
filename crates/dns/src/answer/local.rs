//! What the records say to a question.

use std::sync::Arc;
use std::time::Instant;

use domain::base::iana::Rtype;

use crate::name::{Key, reverse, single};
use crate::query::Query;
use crate::records::{Entry, Family, Found, NotOurs, SrvFound, Target, View};

/// What the records say to a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Local {
    /// These addresses, of the families that the question wants.
    Addresses(Arc<Entry>),
    /// The name of an address.
    Called(String),
    /// These offer the service.
    Services(Vec<Target>),
    /// The name is known, without what is wanted.
    NoData,
    /// The name would be here, and is not.
    NoSuchName,
    /// Nothing.
    NotOurs,
}

/// Asks the records.
pub(super) fn find(query: &Query<'_>, view: &View, now: Instant) -> Local {
    let question = query.question();
    let Some(key) = Key::of(question.qname().iter()) else { return Local::NotOurs };
    let (name, wanted) = (key.as_str(), question.qtype());
    let below_arpa = name.ends_with(".arpa").then(|| reverse(name)).flatten();
    if let Some(range) = below_arpa {
        return match view.name_of(range) {
            Ok(Some(name)) if matches!(wanted, Rtype::PTR | Rtype::ANY) => Local::Called(name),
            Ok(None) if single(range).is_some() => Local::NoSuchName,
            Ok(_) => Local::NoData,
            Err(NotOurs) => Local::NotOurs,
        };
    }
    let service = if wanted == Rtype::SRV || name.starts_with('_') {
        view.service(name, now)
    } else {
        SrvFound::Unknown
    };
    if let SrvFound::Targets(targets) = service {
        return match wanted {
            Rtype::SRV | Rtype::ANY => Local::Services(targets),
            _ => Local::NoData,
        };
    }
    let family = match wanted {
        Rtype::A => Family::V4,
        Rtype::AAAA => Family::V6,
        _ => Family::Any,
    };
    match view.find(name, family, now) {
        Found::Addresses(entry) => match wanted {
            Rtype::A | Rtype::AAAA | Rtype::ANY => Local::Addresses(entry),
            _ => Local::NoData,
        },
        Found::NoData => Local::NoData,
        Found::NoSuchName => Local::NoSuchName,
        Found::Unknown if service == SrvFound::NoSuchName => Local::NoSuchName,
        Found::Unknown => {
            let stays = view.keeps_single_labels && !name.contains('.') && family != Family::Any;
            if stays { Local::NoData } else { Local::NotOurs }
        }
    }
}
