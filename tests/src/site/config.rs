//! What a site's processes are told: the configuration of agent and collector.

use std::fmt::Write as _;

use gapless_simulators::modbus::TcpServer;

use super::{DeviceSpec, Place, SITE, Site};
use crate::proxy::Proxy;

impl Site {
    pub(super) fn write_configs(&self) {
        std::fs::write(self.path("agent.toml"), self.agent_config()).expect("the folder can be written");
        std::fs::write(self.path("collector.toml"), self.collector_config())
            .expect("the folder can be written");
    }

    fn agent_config(&self) -> String {
        let daily = self.spec.daily_budget;
        let daily = daily.map_or(String::new(), |bytes| format!("daily_budget = \"{}KiB\"\n", bytes >> 10));
        let mut text = format!(
            "site = \"{SITE}\"\nagent = \"gateway\"\n\n\
             [uplink]\nbroker = \"mqtt://127.0.0.1:{}\"\nflush = \"{}\"\nkeep_alive = \"{}\"\n{daily}\n\
             [outbox]\npath = \"{}\"\nbudget = \"{}\"\n\n[clock]\ntrust = \"always\"\n\n\
             [status]\nsocket = \"{}\"\n",
            self.agent_link.as_ref().map_or(self.mqtt_port, Proxy::port),
            self.spec.flush,
            self.spec.keep_alive,
            self.outbox_folder().display(),
            self.spec.budget,
            self.path("agent.sock").display(),
        );
        let line = format!("serial = {{ port = \"{}\", baud = 19200 }}", self.line.path().display());
        let tcp = |(n, server): (usize, &TcpServer)| {
            (Place::Tcp(n), format!("tcp = {{ address = \"{}\" }}", server.address()))
        };
        let buses = std::iter::once((Place::Line, line)).chain(self.tcp.iter().enumerate().map(tcp));
        for (n, (place, link)) in buses.enumerate() {
            let devices: Vec<_> = self.spec.devices.iter().filter(|d| d.place == place).collect();
            if !devices.is_empty() {
                let _ =
                    write!(text, "\n[[bus]]\nid = \"bus-{n}\"\n{link}\ntimeout = \"300ms\"\nretries = 1\n");
            }
            devices.into_iter().for_each(|device| write_device(&mut text, device));
        }
        text
    }

    fn collector_config(&self) -> String {
        let mqtt = if self.spec.embedded_broker {
            format!("embedded = \"127.0.0.1:{}\"", self.mqtt_port)
        } else {
            let port = self.collector_link.as_ref().map_or(self.mqtt_port, Proxy::port);
            format!("broker = \"mqtt://127.0.0.1:{port}\"")
        };
        format!(
            "data_dir = \"{}\"\n\n[mqtt]\n{mqtt}\n\n[http]\nlisten = \"127.0.0.1:{}\"\n",
            self.collector_folder().display(),
            self.http_port
        )
    }
}

fn write_device(text: &mut String, device: &DeviceSpec) {
    let _ = write!(
        text,
        "\n[[bus.device]]\nid = \"{}\"\nunit = {}\ninterval = \"{}\"\n",
        device.name, device.unit, device.interval
    );
    let floats = (0..device.channels).map(|n| (format!("ch{n:02}"), 2 * n, "f32"));
    let clock = std::iter::once(("eval_time_ms".to_owned(), 2 * device.channels, "u64"));
    for (id, address, kind) in floats.chain(clock) {
        let _ = write!(
            text,
            "[[bus.device.channel]]\nid = \"{id}\"\ntable = \"holding\"\naddress = {address}\ntype = \"{kind}\"\n"
        );
    }
}
