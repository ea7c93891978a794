//! A collector with nothing but sources of its own: no broker but the one within it, no agent.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::api::Api;
use crate::process::{Process, free_port, own_binary};
use crate::wait;

/// How long anything may take.
pub const WITHIN: Duration = Duration::from_secs(150);

/// A collector of the site `home-1`. It ends when this is dropped.
#[derive(Debug)]
pub struct Home {
    // The process ends before its folder does.
    collector: Option<Process>,
    /// Where everything of it is.
    pub folder: TempDir,
    /// It, as people see it.
    pub api: Api,
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).expect("the folder is writable");
}

impl Home {
    /// Starts a collector with a source for each of these descriptions.
    ///
    /// # Panics
    /// When it does not begin to answer.
    #[must_use]
    pub fn start(descriptions: &[String]) -> Self {
        Self::start_with(descriptions, "")
    }

    /// The same with more lines at the top of its configuration.
    ///
    /// # Panics
    /// As [`start`](Self::start).
    #[must_use]
    pub fn start_with(descriptions: &[String], more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        write(folder.path(), "token", "Bearer secret\n");
        let mut files = Vec::new();
        for (no, text) in descriptions.iter().enumerate() {
            let name = format!("source-{no}.toml");
            let token = format!("@{}/token", folder.path().display());
            write(folder.path(), &name, &text.replace("@/etc/gapless/thermostats.token", &token));
            files.push(format!("\"{}/{name}\"", folder.path().display()));
        }
        let (http, mqtt) = (free_port(), free_port());
        let config = format!(
            "data_dir = \"{0}/data\"\nsources = [{1}]\n{more}[http]\nlisten = \"127.0.0.1:{http}\"\n\
             [mqtt]\nembedded = \"127.0.0.1:{mqtt}\"\n",
            folder.path().display(),
            files.join(", ")
        );
        write(folder.path(), "collector.toml", &config);
        let collector = Some(Self::run(folder.path()));
        let file = folder.path().join("data/admin-token");
        let token =
            wait::until("the token", WITHIN, || std::fs::read_to_string(&file).map_err(|e| e.to_string()));
        let api = Api::new(&format!("http://127.0.0.1:{http}"), token.trim());
        Self { folder, collector, api }
    }

    fn run(folder: &Path) -> Process {
        let mut command = Command::new(own_binary("gapless-collector"));
        command.arg("--config").arg(folder.join("collector.toml")).arg("run");
        Process::start("collector", &mut command, &folder.join("collector.log"))
    }

    /// Kills the collector and starts it again.
    pub fn kill(&mut self) {
        self.kill_and(|_| {});
    }

    /// The same; `between` is what happens to its database while there is none.
    ///
    /// # Panics
    /// When it does not begin to answer again.
    pub fn kill_and(&mut self, between: impl FnOnce(&Path)) {
        self.collector.take().into_iter().for_each(Process::kill);
        between(&self.folder.path().join("data/gapless.db"));
        self.collector = Some(Self::run(self.folder.path()));
        wait::until_true("the collector again", WITHIN, || self.api.get("/api/v1/devices").is_ok());
    }

    /// The readings of a device: value (none where it is flagged) and quality by instant.
    #[must_use]
    pub fn readings(&self, channel: &str) -> BTreeMap<i64, (Option<f64>, String)> {
        let rows = self.api.readings(&format!("home-1/{channel}")).unwrap_or_default();
        rows.into_iter().map(|row| (row.at_ms, (row.value.as_f64(), row.quality))).collect()
    }

    /// What the API says of a device.
    #[must_use]
    pub fn device(&self, name: &str) -> serde_json::Value {
        self.api.get(&format!("/api/v1/devices/home-1/{name}")).unwrap_or_default()
    }
}

/// A shipped description with some of its words replaced.
///
/// # Panics
/// When it has no such word.
#[must_use]
pub fn described(text: &str, words: &[(&str, &str)]) -> String {
    words.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the description has no `{from}`");
        text.replace(from, to)
    })
}
