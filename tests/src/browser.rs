//! A real browser: Debian's Chromium, driven by ChromeDriver over the WebDriver protocol (W3C WebDriver).

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::process::{Process, free_port};
use crate::wait;

/// A browser window; closed when dropped.
#[derive(Debug)]
pub struct Browser {
    base: String,
    session: String,
    _driver: Process,
}

/// A page that never needs the world outside is opened without any of Chromium's own traffic.
const ARGUMENTS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

impl Browser {
    /// Opens a window of `width` × `height` pixels, its profile and log in `folder`.
    ///
    /// # Panics
    /// When ChromeDriver or Chromium is missing or does not start within 30 s.
    #[must_use]
    pub fn open(folder: &Path, width: u32, height: u32) -> Self {
        let port = free_port();
        let mut command = Command::new("chromedriver");
        command.arg(format!("--port={port}"));
        let driver = Process::start("chromedriver", &mut command, &folder.join("chromedriver.log"));
        let base = format!("http://127.0.0.1:{port}");
        let mut arguments: Vec<String> = ARGUMENTS.iter().map(|&a| a.to_owned()).collect();
        arguments.push(format!("--window-size={width},{height}"));
        arguments.push(format!("--user-data-dir={}", folder.join("chromium").display()));
        let options = json!({"binary": "/usr/bin/chromium", "args": arguments});
        let wanted = json!({"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}});
        let session = wait::until("a browser session", Duration::from_secs(30), || {
            let answer = post(&format!("{base}/session"), &wanted)?;
            answer["value"]["sessionId"].as_str().map(str::to_owned).ok_or_else(|| answer.to_string())
        });
        Self { base: format!("{base}/session/{session}"), session, _driver: driver }
    }

    /// Goes to an address and waits until it is loaded.
    ///
    /// # Panics
    /// When the browser says no.
    pub fn go(&self, url: &str) {
        self.must("url", &json!({"url": url}));
    }

    /// Runs a script of one expression and gives its value.
    ///
    /// # Panics
    /// When the script throws.
    #[must_use]
    pub fn eval(&self, expression: &str) -> Value {
        let script = json!({"script": format!("return ({expression});"), "args": []});
        self.must("execute/sync", &script)["value"].clone()
    }

    /// A picture of the window, as PNG in base64, written decoded nowhere: the tests only ask for its size.
    ///
    /// # Panics
    /// When the browser says no.
    #[must_use]
    pub fn screenshot_base64(&self) -> String {
        let answer = get(&format!("{}/screenshot", self.base)).expect("a screenshot");
        answer["value"].as_str().unwrap_or_default().to_owned()
    }

    fn must(&self, command: &str, body: &Value) -> Value {
        let answer = post(&format!("{}/{command}", self.base), body);
        answer.unwrap_or_else(|e| fail(&format!("browser session {}: {command}: {e}", self.session)))
    }
}

#[expect(clippy::panic, reason = "a test helper fails its test")]
fn fail(why: &str) -> ! {
    panic!("{why}")
}

fn post(url: &str, body: &Value) -> Result<Value, String> {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut answer = agent.post(url).send_json(body).map_err(|e| e.to_string())?;
    let text = answer.body_mut().read_to_string().map_err(|e| e.to_string())?;
    let value: Value = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if answer.status().is_success() { Ok(value) } else { Err(value["value"]["message"].to_string()) }
}

fn get(url: &str) -> Result<Value, String> {
    let mut answer = ureq::get(url).call().map_err(|e| e.to_string())?;
    let text = answer.body_mut().with_config().limit(64 << 20).read_to_string().map_err(|e| e.to_string())?;
    serde_json::from_str(&text).map_err(|e| e.to_string())
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = ureq::delete(&self.base).call();
    }
}
