//! Which backend an engine has, by its configuration or by what there is.

use std::sync::Arc;
use std::time::Instant;

use netloom_firewall::TableConfig;
use netloom_firewall::io::{Xtables, XtablesError};
use netloom_firewall::iptables::Version;
use netloom_kernel::{Kernel, Netns};
use netloom_model::config::FirewallBackend;
use netloom_model::{Error, Result};

use super::backend::Backend;

/// A backend, and why it is this one.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The backend.
    pub backend: Backend,
    /// Why.
    pub reason: String,
    /// Why there is none although one was wanted.
    pub missing: Option<String>,
}

impl Choice {
    /// One that was asked for.
    #[must_use]
    pub fn asked(backend: Backend) -> Self {
        let reason = format!("firewall.backend is {:?}", backend.name());
        Self { backend, reason, missing: None }
    }

    /// Chooses. What is there is tried, and nothing is changed.
    ///
    /// # Errors
    /// `InvalidParameter`, with the remedy, when the configuration names one that cannot work here.
    pub async fn make(
        wanted: FirewallBackend,
        config: &TableConfig,
        kernel: &dyn Kernel,
        xtables: Option<&Arc<dyn Xtables>>,
        deadline: Instant,
    ) -> Result<Self> {
        let refused = |why: String| Error::invalid("firewall.backend", wanted, why);
        match wanted {
            FirewallBackend::None => Ok(Self::asked(Backend::None)),
            FirewallBackend::Nftables => match without_nftables(config, kernel, deadline).await {
                None => Ok(Self::asked(Backend::Nftables)),
                Some(why) => Err(refused(format!("{why}; {NFTABLES}, or choose \"iptables\" or \"auto\""))),
            },
            FirewallBackend::Iptables => match iptables(kernel, xtables, deadline).await {
                Ok(backend) => Ok(Self::asked(backend)),
                Err(why) => Err(refused(format!("{why}; or choose \"nftables\" or \"auto\""))),
            },
            FirewallBackend::Auto => {
                let Some(why) = without_nftables(config, kernel, deadline).await else {
                    let reason = "the kernel has nftables".to_owned();
                    return Ok(Self { backend: Backend::Nftables, reason, missing: None });
                };
                Ok(match iptables(kernel, xtables, deadline).await {
                    Ok(backend) => Self {
                        backend,
                        reason: format!("{why}, and the programs of iptables are there"),
                        missing: None,
                    },
                    Err(neither) => {
                        let reason = format!("{why} ({NFTABLES}), and {neither}");
                        Self { backend: Backend::None, missing: Some(reason.clone()), reason }
                    }
                })
            }
        }
    }
}

/// What helps where there is no nftables.
const NFTABLES: &str = "load the module nf_tables, or use a kernel with CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET and CONFIG_NFT_NAT";

/// Why nftables cannot be used; `None` where it can, or where that is not known.
async fn without_nftables(config: &TableConfig, kernel: &dyn Kernel, deadline: Instant) -> Option<String> {
    let read = kernel.table(config.table(), deadline).await;
    let error = read.err().filter(netloom_kernel::KernelError::unsupported)?;
    Some(format!("the kernel has no nftables: {error}"))
}

/// iptables, where it works.
async fn iptables(
    kernel: &dyn Kernel,
    xtables: Option<&Arc<dyn Xtables>>,
    deadline: Instant,
) -> std::result::Result<Backend, String> {
    let Some(xtables) = xtables else {
        return Err("iptables-restore, iptables-save, ip6tables-restore and ip6tables-save are not all there: install \
                    the package iptables"
            .into());
    };
    let fails = |error: XtablesError| {
        format!("iptables does not work ({error}): load the modules of iptables, or use a kernel with them")
    };
    xtables.test(Version::V4, deadline).await.map_err(fails)?;
    let mut versions = vec![Version::V4];
    match xtables.test(Version::V6, deadline).await {
        Ok(()) => versions.push(Version::V6),
        Err(error) => {
            // Without IPv6 there is nothing to be filtered. With it, half a firewall is none.
            let ipv6 = kernel.read_setting(Netns::Host, "ipv6/conf/all/forwarding", deadline).await;
            if !ipv6.is_err_and(|error| error.already_gone()) {
                return Err(fails(error));
            }
        }
    }
    Ok(Backend::Iptables { xtables: Arc::clone(xtables), versions })
}
