//! What `netloom demo --keep` leaves standing: how to look around in it, and how it ends.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use crate::signals::Signals;

/// Whose namespaces the demonstration plays in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Place {
    /// Those it was started in: what stands there stays.
    Shared,
    /// Its own, which live as long as this process does.
    Own {
        /// The process, as others see it.
        process: u32,
        /// Whether a user namespace is among them.
        user: bool,
    },
}

/// What was kept.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub(crate) place: Place,
    /// Everything the demonstration wrote.
    pub(crate) dir: PathBuf,
    /// Where its network namespaces are mounted.
    pub(crate) namespaces: Vec<PathBuf>,
    pub(crate) bridges: Vec<String>,
}

/// Who can end what stands in namespaces of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    /// Somebody at a terminal, or a signal.
    Key,
    /// A signal only: standard input may be at its end already, as it is for a service.
    Signal,
}

impl Ending {
    pub(crate) fn of_standard_input() -> Self {
        if std::io::stdin().is_terminal() { Self::Key } else { Self::Signal }
    }

    /// Waits for it.
    pub(crate) async fn wait(self, signals: &mut Signals) {
        use tokio::io::AsyncReadExt as _;
        match self {
            Self::Signal => signals.interrupted().await,
            Self::Key => {
                let (mut byte, mut input) = ([0], tokio::io::stdin());
                tokio::select! {
                    () = signals.interrupted() => {}
                    // Also ends with the terminal.
                    _ = input.read(&mut byte) => {}
                }
            }
        }
    }
}

impl Standing {
    /// How to look around and how to take it down, in whole commands.
    pub(crate) fn explain(&self, ending: Ending) -> String {
        let mut text = "look around with:\n".to_owned();
        // Writing to a string does not fail.
        for path in &self.namespaces {
            let _ = match self.place {
                Place::Shared => writeln!(text, "  nsenter --net={} ip address", quoted(path)),
                Place::Own { process, user } => {
                    let enter = if user {
                        format!("nsenter -t {process} -U --preserve-credentials")
                    } else {
                        "nsenter".to_owned()
                    };
                    // What is mounted there is mounted nowhere else.
                    let path = quoted(Path::new(&format!("/proc/{process}/root{}", path.display())));
                    writeln!(text, "  {enter} --net={path} ip address")
                }
            };
        }
        match (self.place, ending) {
            (Place::Shared, _) => self.take_down(&mut text),
            (Place::Own { .. }, Ending::Key) => {
                text += "press Enter or Ctrl-C to end; everything goes with this process";
            }
            (Place::Own { process, .. }, Ending::Signal) => {
                text += "standard input is no terminal: it stands until a signal comes, and everything goes \
                         with this process; end it with:\n";
                let _ = write!(text, "  kill {process}");
            }
        }
        text
    }

    fn take_down(&self, text: &mut String) {
        let dir = quoted(&self.dir);
        let data = quoted(&self.dir.join("data"));
        let _ = writeln!(text, "its store is in {data}; who has which address is told by:");
        let program = quoted(Path::new(&std::env::args_os().next().unwrap_or_else(|| "netloom".into())));
        let _ = writeln!(text, "  {program} ipam ls --data-dir {data}");
        let _ = writeln!(text, "take it down with:");
        let namespaces: Vec<_> = self.namespaces.iter().map(|path| quoted(path)).collect();
        let _ = write!(text, "  umount {} && rm -r {dir}", namespaces.join(" "));
        for bridge in &self.bridges {
            let _ = write!(text, "\n  ip link delete {bridge}");
        }
    }
}

/// A path as a shell reads it: whoever pastes `rm -r` must not remove something else.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(place: Place, dir: &str) -> Standing {
        let namespaces = ["a", "b"].map(|name| Path::new(dir).join("run/netns").join(name)).to_vec();
        Standing { place, dir: dir.into(), namespaces, bridges: vec!["br-0123456789ab".to_owned()] }
    }

    #[test]
    fn what_stays_is_taken_down_by_whole_commands() {
        let text = standing(Place::Shared, "/tmp/d").explain(Ending::Signal);
        let program = quoted(Path::new(&std::env::args_os().next().expect("a test has a name")));
        let expected = format!(
            "look around with:\n\
            \x20 nsenter --net=/tmp/d/run/netns/a ip address\n\
            \x20 nsenter --net=/tmp/d/run/netns/b ip address\n\
            its store is in /tmp/d/data; who has which address is told by:\n\
            \x20 {program} ipam ls --data-dir /tmp/d/data\n\
            take it down with:\n\
            \x20 umount /tmp/d/run/netns/a /tmp/d/run/netns/b && rm -r /tmp/d\n\
            \x20 ip link delete br-0123456789ab"
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn what_ends_with_the_process_says_how_it_ends() {
        let own = |user| standing(Place::Own { process: 7, user }, "/tmp/d");
        let text = own(true).explain(Ending::Key);
        let path = "/proc/7/root/tmp/d/run/netns/a";
        assert!(text.contains(&format!("nsenter -t 7 -U --preserve-credentials --net={path} ")), "{text}");
        assert!(text.ends_with("press Enter or Ctrl-C to end; everything goes with this process"), "{text}");
        let text = own(false).explain(Ending::Signal);
        assert!(text.contains(&format!("nsenter --net={path} ip address")), "{text}");
        assert!(text.ends_with("\n  kill 7") && !text.contains("Enter"), "{text}");
    }

    #[test]
    fn a_shell_reads_one_path() {
        assert_eq!(quoted(Path::new("/tmp/netloom-demo-Ab3_x")), "/tmp/netloom-demo-Ab3_x");
        assert_eq!(quoted(Path::new("/tmp/a b;*'")), r"'/tmp/a b;*'\'''");
    }
}
