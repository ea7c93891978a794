//! A small file system of a test's own, by mounting: it fills up, becomes read-only, fails and is put back, all of it
//! done by the kernel and not by a stand-in.
//!
//! Ext4 in an image on a loop device where the machine has those, tmpfs where not (that cannot fail while in use).
//! Needs root. Nothing is kept when the guard is dropped.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted file system.
#[derive(Debug)]
pub struct SmallDisk {
    mountpoint: PathBuf,
    medium: Medium,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Medium {
    /// An image, and the name of its loop device while it is mounted.
    Ext4 {
        image: PathBuf,
    },
    Tmpfs {
        mib: u32,
    },
}

/// The file that takes all the room.
const BALLAST: &str = "ballast";

impl SmallDisk {
    /// Mounts `mib` MiB at `folder/name`.
    ///
    /// # Errors
    /// Why this machine does not let us.
    pub fn mount(folder: &Path, name: &str, mib: u32) -> Result<Self, String> {
        let mountpoint = folder.join(name);
        fs::create_dir_all(&mountpoint).map_err(|e| e.to_string())?;
        let image = folder.join(format!("{name}.img"));
        let ext4 = Self { mountpoint: mountpoint.clone(), medium: Medium::Ext4 { image: image.clone() } };
        let made = make_image(&image, mib).and_then(|()| ext4.attach());
        match made {
            Ok(()) => Ok(ext4),
            Err(why) => {
                // Nothing is mounted that could be unmounted.
                std::mem::forget(ext4);
                let tmpfs = Self { mountpoint, medium: Medium::Tmpfs { mib } };
                let mounted = tmpfs.attach();
                mounted.map(|()| tmpfs).map_err(|second| format!("{why}; {second}"))
            }
        }
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// Whether [`fail`](Self::fail) is possible.
    #[must_use]
    pub const fn can_fail(&self) -> bool {
        matches!(self.medium, Medium::Ext4 { .. })
    }

    fn attach(&self) -> Result<(), String> {
        let mut command = Command::new("mount");
        match &self.medium {
            Medium::Ext4 { image } => command.args(["-t", "ext4", "-o", "loop,errors=remount-ro"]).arg(image),
            Medium::Tmpfs { mib } => {
                command.args(["-t", "tmpfs", "-o", &format!("size={mib}m"), "gapless-test"])
            }
        };
        run(command.arg(&self.mountpoint))
    }

    /// Takes all the room that is left.
    ///
    /// # Panics
    /// When the file system says anything but that it is full.
    pub fn fill(&self) {
        let path = self.mountpoint.join(BALLAST);
        let mut ballast = File::options().create(true).append(true).open(path).expect("a file more");
        for piece in [64 << 10, 4 << 10, 1 << 10, 1] {
            let zeros = vec![0; piece];
            let full = loop {
                if let Err(e) = ballast.write_all(&zeros) {
                    break e;
                }
            };
            assert_eq!(full.kind(), std::io::ErrorKind::StorageFull, "{full}");
        }
    }

    /// Gives the room back. What is free already is no error.
    pub fn free(&self) {
        let _ = fs::remove_file(self.mountpoint.join(BALLAST));
    }

    /// Makes it read-only, or writable again. The kernel refuses the first while a file is open for writing.
    ///
    /// # Errors
    /// What `mount` said.
    pub fn remount(&self, writable: bool) -> Result<(), String> {
        let option = if writable { "remount,rw" } else { "remount,ro" };
        run(Command::new("mount").args(["-o", option]).arg(&self.mountpoint))
    }

    /// Lets the file system find an error in itself, upon which it takes no write any more, whoever has it open.
    ///
    /// # Panics
    /// Where it is not ext4, or the kernel does not let us.
    pub fn fail(&self) {
        let device = self.loop_device().expect("an ext4 on a loop device");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        fs::write(&trigger, "gapless-test").expect("the kernel has the trigger");
    }

    /// Takes it out and puts it back; possible once nobody has a file open there.
    ///
    /// # Errors
    /// What `umount` or `mount` said; after the first it is as it was.
    pub fn replace(&self) -> Result<(), String> {
        run(Command::new("umount").arg(&self.mountpoint))?;
        self.attach()
    }

    fn loop_device(&self) -> Option<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
        let wanted = self.mountpoint.to_str()?;
        let device = mounts.lines().find_map(|line| {
            let mut words = line.split(' ');
            let (device, place) = (words.next()?, words.next()?);
            (place == wanted).then(|| device.to_owned())
        });
        device?.strip_prefix("/dev/").map(str::to_owned)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what a process that is about to end has open goes with it.
        let _ = run(Command::new("umount").arg("-l").arg(&self.mountpoint));
    }
}

fn make_image(image: &Path, mib: u32) -> Result<(), String> {
    let file = File::create(image).map_err(|e| e.to_string())?;
    file.set_len(u64::from(mib) << 20).map_err(|e| e.to_string())?;
    // No blocks kept for root, who is who runs the tests.
    run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(image))
}

/// Servers and tools of root are in sbin, which a PATH may lack.
fn run(command: &mut Command) -> Result<(), String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.env("PATH", path).output().map_err(|e| format!("{name}: {e}"))?;
    if done.status.success() {
        return Ok(());
    }
    Err(format!("{name}: {}", String::from_utf8_lossy(&done.stderr).trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// CAP_SYS_ADMIN is bit 21 of the effective capabilities (capabilities(7)).
    fn may_mount() -> bool {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
        u64::from_str_radix(mask, 16).unwrap() & (1 << 21) != 0
    }

    /// Without the right to mount there is nothing to test: then the chaos run says so, too.
    fn disk(folder: &Path) -> Option<SmallDisk> {
        match SmallDisk::mount(folder, "disk", 8) {
            Ok(disk) => Some(disk),
            Err(why) => {
                assert!(!may_mount(), "this process may mount, and cannot: {why}");
                println!("skipped, mounting is not allowed here: {why}");
                None
            }
        }
    }

    #[test]
    fn it_fills_up_turns_read_only_fails_and_is_as_good_as_new() {
        let folder = tempfile::tempdir().unwrap();
        let Some(disk) = disk(folder.path()) else { return };
        let write = |text: &str| fs::write(disk.path().join("file"), text).map_err(|e| e.kind());
        write("one").unwrap();
        disk.fill();
        assert_eq!(
            fs::write(disk.path().join("more"), [1; 4096]).unwrap_err().kind(),
            std::io::ErrorKind::StorageFull
        );
        disk.free();
        write("two").unwrap();
        disk.remount(false).unwrap();
        assert_eq!(write("never"), Err(std::io::ErrorKind::ReadOnlyFilesystem));
        disk.remount(true).unwrap();
        write("three").unwrap();
        if disk.can_fail() {
            let open = File::options().append(true).open(disk.path().join("file")).unwrap();
            disk.fail();
            assert!((&open).write_all(b"never").is_err());
            disk.replace().unwrap_err();
            drop(open);
            disk.replace().unwrap();
            write("four").unwrap();
        }
        assert!(fs::read_to_string(disk.path().join("file")).is_ok());
        let place = disk.path().to_str().unwrap().to_owned();
        drop(disk);
        assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(&place));
    }
}
