//! What a sandbox's name server is to be like: said by the sandbox as a whole, whenever any of it changes.

use std::path::PathBuf;
use std::sync::Arc;

use netloom_dns::records::{Attachment, View};
use netloom_kernel::Netns;
use netloom_model::{Names, NetworkId, SandboxId, SandboxSettings, SandboxSpec, Seldom};

use super::zones::Zones;

/// What a sandbox's name server is to be like.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamesWanted {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// Its namespace, which is not the host's.
    pub netns: Netns,
    /// What was asked for of the sandbox: its own name servers, if it has any.
    pub spec: Arc<SandboxSpec>,
    /// Its networks, first asked first, with the names that are its own there.
    pub networks: Vec<(NetworkId, Seldom<Names>)>,
    /// Whether it reaches the outside. Nobody outside is asked where it does not.
    pub external: bool,
}

impl NamesWanted {
    pub(super) fn settings(&self) -> Option<&SandboxSettings> {
        self.spec.settings.as_deref()
    }

    /// The file that says which name servers there are, instead of the host's.
    pub(super) fn origin(&self) -> Option<&PathBuf> {
        self.settings().and_then(|settings| settings.origin_resolv_conf_path.as_ref())
    }

    /// What its questions see.
    pub(super) fn view(&self, zones: &Zones, keeps_single_labels: bool) -> View {
        let attachment = |(network, names): &(NetworkId, Seldom<Names>)| {
            let links = names.links.iter().map(|(alias, name)| (alias.as_str(), name.as_str()));
            Some(Attachment::new(zones.reader(*network)?, links))
        };
        let mut view = View::new(self.networks.iter().filter_map(attachment).collect());
        view.keeps_single_labels = keeps_single_labels;
        view
    }
}
