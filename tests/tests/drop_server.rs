//! A folder on a server with SFTP as a source of the collector: OpenSSH's own server on the loopback, with keys that the test
//! makes; what is wrong with a connection is said with what to do about it.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use gapless_tests::home::{Home, WITHIN};
use gapless_tests::logger_files::{DAY, Logger, drop_description, piped, put, until_speeds, until_told};
use gapless_tests::process::{Process, free_port};
use gapless_tests::wait;

/// OpenSSH's server, for the user that runs the test. It ends when it is dropped.
struct Server {
    process: Option<Process>,
    folder: tempfile::TempDir,
    port: u16,
}

fn key(path: &Path) -> String {
    let path_text = path.display().to_string();
    let _ = piped("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &path_text], b"");
    std::fs::read_to_string(path.with_extension("pub")).expect("its public half")
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let (_, port) = (key(&folder.path().join("host")), free_port());
        std::fs::write(folder.path().join("authorized_keys"), "").expect("it can be written");
        let config = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nPidFile none\nStrictModes no\nUsePAM no\n\
             PasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin prohibit-password\n\
             AuthorizedKeysFile {}\nSubsystem sftp internal-sftp\n",
            at("host"),
            at("authorized_keys")
        );
        std::fs::write(folder.path().join("config"), config).expect("it can be written");
        // Where it is run by root it wants this folder, which a package makes at boot.
        let _ = std::fs::create_dir_all("/run/sshd");
        let mut server = Self { process: None, folder, port };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut command = Command::new("/usr/sbin/sshd");
        command.args(["-D", "-e", "-f"]).arg(self.folder.path().join("config"));
        self.process = Some(Process::start("sshd", &mut command, &self.folder.path().join("log")));
        wait::until_true("the server", WITHIN, || {
            std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    fn stop(&mut self) {
        self.process.take().into_iter().for_each(Process::kill);
    }

    fn lets_in(&self, public: &str) {
        std::fs::write(self.folder.path().join("authorized_keys"), public).expect("it can be written");
    }

    fn known_as(&self) -> String {
        let public = std::fs::read_to_string(self.folder.path().join("host.pub")).expect("it is there");
        format!("[127.0.0.1]:{} {public}", self.port)
    }
}

fn until_logged(home: &Home, words: &str) {
    let log = home.folder.path().join("collector.log");
    wait::until(&format!("`{words}` in the log"), WITHIN, || {
        let text = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
        if text.contains(words) { Ok(()) } else { Err(text) }
    });
}

#[test]
fn a_folder_of_a_server_is_read_and_what_is_wrong_with_the_connection_is_said() {
    let logger = Logger::of_rows(3 * DAY);
    let mut server = Server::start();
    let own = tempfile::tempdir().expect("a folder");
    let identity = own.path().join("key");
    let public = key(&identity);
    let known_hosts = own.path().join("known hosts");
    std::fs::write(&known_hosts, "").expect("it can be written");
    let outgoing = own.path().join("out going");
    std::fs::create_dir_all(outgoing.join("2026")).expect("a folder");
    put(&outgoing.join("2026"), "Met_1234_0.dat", logger.toa5(0..DAY));
    let whoami = String::from_utf8(piped("id", &["-un"], b"")).expect("a name");
    let at = format!(
        "sftp = \"{}@127.0.0.1:{}{}\"\ntimeout = \"5s\"",
        whoami.trim(),
        server.port,
        outgoing.display()
    );
    let words = [
        ("folder = \"/mnt/share/mast-7\"", &*at),
        ("# identity = \"/etc/gapless/drop.key\"", &*format!("identity = \"{}\"", identity.display())),
        (
            "# known_hosts = \"/etc/gapless/known_hosts\"",
            &*format!("known_hosts = \"{}\"", known_hosts.display()),
        ),
        ("files = \"Met_{logger}*.dat\"", "files = \"20*/Met_{logger}*\""),
    ];
    let mut home = Home::start(&[drop_description(&words)]);
    until_logged(&home, &format!("the host key of {}@127.0.0.1 is not known", whoami.trim()));
    until_logged(&home, &format!("ssh-keyscan -p {} 127.0.0.1", server.port));
    std::fs::write(&known_hosts, server.known_as()).expect("it can be written");
    until_logged(&home, &format!("refuses the key {}", identity.display()));
    server.lets_in(&public);
    until_speeds(&home, "mast", &logger.speeds(0..DAY));

    // A file grows, a packed one comes, a link is followed.
    let put_below = |name: &str, bytes: &[u8]| put(&outgoing.join("2026"), name, bytes);
    put_below("Met_1234_0.dat", logger.toa5(0..DAY + 10).as_bytes());
    let packed = piped("gzip", &["-c"], logger.toa5(DAY + 10..DAY + 15).trim_end().as_bytes());
    put_below("Met_1234_0.gz", &packed);
    std::fs::write(own.path().join("elsewhere"), logger.toa5(DAY + 15..DAY + 20)).expect("it can be written");
    let link = |from: &Path, name: &str| {
        std::os::unix::fs::symlink(from, outgoing.join("2026").join(name)).expect("a link");
    };
    link(&own.path().join("elsewhere"), "Met_1234_1.dat");
    link(&own.path().join("nowhere"), "Met_1234_2.dat");
    until_speeds(&home, "mast", &logger.speeds(0..DAY + 20));

    // A longer one with another value near its begin takes the place of a file that was read.
    let (before, after) = (logger.row(5, Logger::speed(5)), logger.row(5, 30.5));
    put_below("Met_1234_0.dat", logger.toa5(0..DAY + 11).replace(&before, &after).as_bytes());
    let speeds = |rows| {
        let mut speeds = logger.speeds(rows);
        speeds.insert(logger.at(5).0, (Some(30.5), "good".to_owned()));
        speeds
    };
    until_speeds(&home, "mast", &speeds(0..DAY + 20));

    // A file that cannot be read is named, and does not stop the others, those behind it among them.
    link(Path::new("/proc/self/mem"), "Met_1234_3.dat");
    until_told(&home, "mast", "2026/Met_1234_3.dat: the server says: Failure (code 4)");
    put_below("Met_1234_4.dat", logger.toa5(DAY + 20..DAY + 30).as_bytes());
    put_below("Met_1234_0.dat", logger.toa5(0..DAY + 12).replace(&before, &after).as_bytes());
    until_speeds(&home, "mast", &speeds(0..DAY + 30));
    std::fs::remove_file(outgoing.join("2026/Met_1234_3.dat")).expect("it was there");
    // Root may read all.
    if whoami.trim() != "root" {
        put_below("Met_1234_3.dat", b"");
        let path = outgoing.join("2026/Met_1234_3.dat");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).expect("its own");
        until_told(&home, "mast", "2026/Met_1234_3.dat: the server does not let it be read");
        std::fs::remove_file(path).expect("it was there");
    }

    // The server goes, and the collector is killed meanwhile; both come back, and so does what came meanwhile.
    server.stop();
    until_told(&home, "mast", "Connection refused");
    put_below("Met_1234_5.dat", logger.toa5(DAY + 30..2 * DAY).as_bytes());
    home.kill();
    server.run();
    until_speeds(&home, "mast", &speeds(0..2 * DAY));

    // Neither a server that does not greet nor one that lets in and then says nothing holds the source for ever.
    server.process.iter().for_each(Process::freeze);
    until_told(&home, "mast", "timed out");
    server.process.iter().for_each(Process::thaw);
    server.lets_in(&format!("command=\"sleep 600\" {public}"));
    until_told(&home, "mast", "it gave no answer within 10 s");
    server.lets_in(&format!("command=\"echo welcome\" {public}"));
    until_told(&home, "mast", "it says what is no SFTP: does a login print something there?");
    server.lets_in(&public);
    put_below("Met_1234_6.dat", logger.toa5(2 * DAY..3 * DAY).as_bytes());
    until_speeds(&home, "mast", &speeds(0..3 * DAY));
}
