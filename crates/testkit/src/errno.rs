//! Error numbers as Linux numbers them on its generic architectures, with their names and texts.

macro_rules! errnos {
    ($($name:ident = $number:literal, $text:literal;)*) => {
        $(#[doc = concat!($text, ".")] pub const $name: i32 = $number;)*

        /// The symbol and the text of an error number; `None` for one this crate does not use.
        #[must_use]
        pub fn describe(errno: i32) -> Option<(&'static str, &'static str)> {
            match errno {
                $($name => Some((stringify!($name), $text)),)*
                _ => None,
            }
        }

        #[cfg(test)]
        const ALL: &[i32] = &[$($name),*];
    };
}

errnos! {
    EPERM = 1, "Operation not permitted";
    ENOENT = 2, "No such file or directory";
    ESRCH = 3, "No such process";
    EINTR = 4, "Interrupted system call";
    EIO = 5, "Input/output error";
    ENXIO = 6, "No such device or address";
    EAGAIN = 11, "Resource temporarily unavailable";
    ENOMEM = 12, "Cannot allocate memory";
    EACCES = 13, "Permission denied";
    EBUSY = 16, "Device or resource busy";
    EEXIST = 17, "File exists";
    ENODEV = 19, "No such device";
    EINVAL = 22, "Invalid argument";
    ERANGE = 34, "Numerical result out of range";
    ELOOP = 40, "Too many levels of symbolic links";
    EXFULL = 54, "Exchange full";
    EOPNOTSUPP = 95, "Operation not supported";
    EADDRNOTAVAIL = 99, "Cannot assign requested address";
    ENETDOWN = 100, "Network is down";
    ENETUNREACH = 101, "Network is unreachable";
    ENOBUFS = 105, "No buffer space available";
    EHOSTUNREACH = 113, "No route to host";
}

/// A refusal: the number, and the kernel's own words where it has any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refusal {
    pub(crate) errno: i32,
    words: Option<&'static str>,
}

impl Refusal {
    pub(crate) const fn new(errno: i32) -> Self {
        Self { errno, words: None }
    }

    /// With the text that Linux sends beside the number (extended acknowledgement).
    pub(crate) const fn saying(errno: i32, words: &'static str) -> Self {
        Self { errno, words: Some(words) }
    }

    pub(crate) fn message(self) -> String {
        match (self.words, describe(self.errno)) {
            // Put together by hand: removals are refused all day long.
            (Some(words), Some((name, _))) => [words, " (", name, ")"].concat(),
            (None, Some((name, text))) => [text, " (", name, ")"].concat(),
            (Some(words), None) => format!("{words} (error {})", self.errno),
            (None, None) => format!("error {}", self.errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_env = "gnu")]
    fn numbers_and_texts_are_the_ones_of_this_system() {
        for errno in ALL {
            let (name, text) = describe(*errno).expect("every constant is described");
            let system = std::io::Error::from_raw_os_error(*errno).to_string();
            assert_eq!(system, format!("{text} (os error {errno})"), "{name}");
        }
    }

    #[test]
    fn a_refusal_names_the_error() {
        assert_eq!(Refusal::new(EEXIST).message(), "File exists (EEXIST)");
        assert_eq!(Refusal::saying(ENETUNREACH, "Gone").message(), "Gone (ENETUNREACH)");
        assert_eq!(Refusal::new(4095).message(), "error 4095");
    }
}
