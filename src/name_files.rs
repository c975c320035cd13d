//! Whether an engine writes the files in which containers find names, and who waits for the disk.

use netloom_actor_controller::FilesSource;
use netloom_model::EngineConfig;

use crate::engine::EngineBuilder;

/// Who writes files of names.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FilesPlace {
    /// A thread, over the machine's own kernel; nobody over another one.
    OfKernel,
    /// A thread.
    OnAThread,
    /// The engine's thread.
    InPlace,
}

impl FilesPlace {
    /// What they are made from; nothing for an engine that keeps none.
    pub(crate) fn source(self, on_machine: bool, config: &EngineConfig) -> Option<FilesSource> {
        let on_a_thread = match self {
            Self::OfKernel if !on_machine => return None,
            Self::OfKernel | Self::OnAThread => true,
            Self::InPlace => false,
        };
        let (run_dir, resolv_conf) = (config.run_dir.clone(), config.resolv_conf.clone());
        Some(FilesSource { run_dir, resolv_conf, on_a_thread })
    }
}

impl EngineBuilder {
    /// Writes the hosts file and the resolv.conf of each sandbox below `run_dir` also over a kernel of the embedder's, on
    /// the engine's own thread, which waits for the disk: for harnesses. Over the machine's own kernel an engine always
    /// writes them, on a thread for that.
    #[must_use]
    pub fn name_files(mut self) -> Self {
        self.files = FilesPlace::InPlace;
        self
    }

    /// The same on a thread of its own.
    #[must_use]
    pub fn name_files_on_a_thread(mut self) -> Self {
        self.files = FilesPlace::OnAThread;
        self
    }
}
