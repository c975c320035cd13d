//! The numbers of new links. The kernel takes one of our choice, so the messages that complete a link can
//! name it and travel in the send that makes it.

use std::hash::{BuildHasher, RandomState};

use netloom_model::IfName;
use nix::errno::Errno;
use nix::net::if_::{if_indextoname, if_nametoindex};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

use super::failure::Failure;

/// The kernel counts up from 1 and is never seen here; the highest number is that of an `i32`.
const LOWEST: u32 = 1 << 30;
const HIGHEST: u32 = i32::MAX as u32;
/// How many numbers are tried. Each that is taken means a new draw, so more than one is already unlikely.
const DRAWS: usize = 16;

/// Draws from the upper half of the positive numbers, which people, distributions and the kernel leave alone.
pub(super) fn draw() -> u32 {
    // Every RandomState has keys of its own: 30 bits of it are used.
    LOWEST | (RandomState::new().hash_one(()) >> 34) as u32
}

/// Gives out numbers for links of the namespace that its thread is in.
///
/// It counts up from a random start, so that the kernel's tables stay dense and no number comes twice: not
/// in this process, and hardly ever in two.
#[derive(Debug)]
pub(super) struct Numbers {
    next: u32,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self { next: draw() }
    }

    /// A number that no link has, for a new link under a name that no link has; `EEXIST` when one has it.
    ///
    /// The kernel would refuse both, but it would be too late: a request sent along for the number would
    /// reach the other link. And it would make the other end of a veth pair before it looks at the name, and
    /// then wait 20 ms for its end. Looking here costs 2 µs and takes no lock.
    pub(super) fn take(&mut self, name: IfName) -> Result<u32, Failure> {
        match if_nametoindex(name.as_str()) {
            Ok(_) => return Err(Failure::errno(Errno::EEXIST)),
            Err(Errno::ENODEV) => {}
            Err(errno) => return Err(not_looked(errno)),
        }
        for _ in 0..DRAWS {
            let number = self.next;
            self.next = if number < HIGHEST { number + 1 } else { LOWEST };
            match is_taken(number) {
                Ok(false) => return Ok(number),
                // Somebody's row of numbers: get away from it.
                Ok(true) => self.next = draw(),
                Err(errno) => return Err(not_looked(errno)),
            }
        }
        Err(Failure::refused(libc::EBUSY, Some("no number for the link was found".into())))
    }
}

/// Why the kernel could not be asked. The C library opens a socket for each question; when it gets none it goes on to look
/// for files of old kernels, and tells of those.
fn not_looked(errno: Errno) -> Failure {
    let socket = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    Failure::io(&socket.err().unwrap_or(errno).into(), "cannot look for a link's number")
}

/// Whether a link has this number.
fn is_taken(number: u32) -> Result<bool, Errno> {
    // nix takes the null of a failure for an empty name, and leaves the reason where it was.
    Errno::clear();
    let reason = match if_indextoname(number) {
        Ok(name) if !name.is_empty() => return Ok(true),
        Ok(_) => Errno::last(),
        Err(errno) => errno,
    };
    if reason == Errno::ENXIO { Ok(false) } else { Err(reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only reads, so it needs no namespace of its own.
    #[test]
    fn numbers_count_up_stay_in_range_and_avoid_links() {
        let free: IfName = "no-such-link".parse().expect("a name");
        let mut numbers = Numbers { next: HIGHEST - 1 };
        let taken = [(); 3].map(|()| numbers.take(free).expect("free"));
        assert_eq!(taken, [HIGHEST - 1, HIGHEST, LOWEST]);

        let loopback = if_nametoindex("lo").expect("every namespace has one");
        let mut numbers = Numbers { next: loopback };
        let other = numbers.take(free).expect("another one");
        assert!((LOWEST..=HIGHEST).contains(&other), "{other}");
        assert!((0..1_000).all(|_| (LOWEST..=HIGHEST).contains(&draw())));

        let exists = numbers.take("lo".parse().expect("a name"));
        assert_eq!(exists, Err(Failure::errno(Errno::EEXIST)));
        assert_eq!(numbers.take(free), Ok(other + 1), "no number is spent on it");
    }
}
