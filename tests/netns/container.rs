//! A process in a network namespace of its own, as a container is one.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// See the module. It ends with its standard input.
pub(crate) struct Container(Child);

impl Container {
    pub(crate) fn start() -> Self {
        let mut process = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo there; read line"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare must be installed (package util-linux)");
        let mut there = [0; 6];
        process.stdout.as_mut().expect("a pipe").read_exact(&mut there).expect("it is there");
        Self(process)
    }

    /// Where its namespace is found.
    pub(crate) fn netns(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// The names of the links in its namespace.
    pub(crate) fn links(&self) -> Vec<String> {
        let held = File::open(self.netns()).expect("it lives");
        let path = format!("/proc/{}/fd/{}", std::process::id(), held.as_raw_fd());
        let output = Command::new("nsenter").arg(format!("--net={path}")).args(["ip", "-o", "link"]).output();
        let output = output.expect("nsenter and ip must be installed (packages util-linux, iproute2)");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("text");
        text.lines().filter_map(|line| Some(line.split(": ").nth(1)?.split('@').next()?.to_owned())).collect()
    }

    pub(crate) fn end(mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("it ends");
    }
}
