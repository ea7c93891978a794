//! What a program did to the files below one directory, from its system calls as strace prints them
//! (`-f -y -xx -o FILE`): writes, lengths, syncs, names, and the marks that it wrote to a file of its own.
//!
//! A call that changes files there and is not modelled is an error, so that nothing is missed in silence. Writes through
//! a shared mapping cannot be seen; only SQLite's index of its log (`-shm`) is written so, which is no durable state.
//! `sync_file_range` forces nothing that could be relied on (`sync_file_range(2)`), so it is left out.

use std::collections::HashMap;
use std::io::BufRead;

use anyhow::{Context as _, Result, bail, ensure};

/// Calls that strace is to print.
pub(super) const CALLS: &str = "openat,open,creat,write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,syncfs,sync,\
    sync_file_range,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,truncate,ftruncate,fallocate,lseek,\
    close,dup,dup2,dup3,link,linkat,symlink,symlinkat,copy_file_range,sendfile,splice,mmap";
/// Calls that change nothing here, or nothing by themselves.
const HARMLESS: [&str; 6] = ["sync_file_range", "close", "dup", "dup2", "dup3", "lseek"];

/// One thing that was done; paths are relative to the directory, which itself is the empty one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Op {
    /// A file is there, made where it was not.
    Create(String),
    Mkdir(String),
    Write {
        path: String,
        offset: u64,
        bytes: Vec<u8>,
    },
    Resize {
        path: String,
        len: u64,
    },
    /// The file reaches this far at least.
    Reach {
        path: String,
        end: u64,
    },
    /// All that was done to it before the operation with this number is durable.
    Sync {
        path: String,
        before: usize,
    },
    Rename {
        from: String,
        to: String,
    },
    /// A file or an empty directory is gone.
    Unlink(String),
    /// The program says how far it came.
    Mark(String),
}

/// Reads a trace; `root` is the directory, `marks` the file of marks, both absolute and free of links.
pub(super) fn parse(trace: impl BufRead, root: &str, marks: &str) -> Result<Vec<Op>> {
    let (root, marks) = (root.to_owned(), marks.to_owned());
    let mut reader = Reader { root, marks, ops: Vec::new(), begun: HashMap::new(), places: HashMap::new() };
    for (number, line) in trace.lines().enumerate() {
        reader.line(&line?).with_context(|| format!("line {} of the trace", number + 1))?;
    }
    Ok(reader.ops)
}

struct Reader {
    root: String,
    marks: String,
    ops: Vec<Op>,
    /// By thread: the begin of a call that another thread's interrupted, and how many operations there were then.
    begun: HashMap<String, (String, usize)>,
    /// By descriptor: where the next write goes.
    places: HashMap<u64, u64>,
}

/// A whole call.
struct Call<'a> {
    name: &'a str,
    arguments: Vec<&'a str>,
    /// What it returned, before a path or an error's name.
    result: i64,
    /// How many operations there were when it began.
    began: usize,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<()> {
        let Some((thread, rest)) = line.split_once(' ') else { return Ok(()) };
        let rest = rest.trim_start();
        if rest.starts_with("+++") || rest.starts_with("---") {
            return Ok(());
        }
        if let Some(begin) = rest.strip_suffix(" <unfinished ...>") {
            self.begun.insert(thread.to_owned(), (begin.to_owned(), self.ops.len()));
            return Ok(());
        }
        if let Some((_, end)) = rest.strip_prefix("<... ").and_then(|r| r.split_once(" resumed>")) {
            let Some((begin, began)) = self.begun.remove(thread) else { return Ok(()) };
            return self.whole(&format!("{begin}{end}"), began);
        }
        self.whole(rest, self.ops.len())
    }

    fn whole(&mut self, text: &str, began: usize) -> Result<()> {
        let Some((name, rest)) = text.split_once('(') else { return Ok(()) };
        let Some((arguments, result)) = rest.rsplit_once(") = ").or_else(|| rest.rsplit_once(')')) else {
            return Ok(());
        };
        let result = result.trim_start_matches(|c: char| c == '=' || c.is_whitespace());
        let end = result.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap_or(result.len());
        // A call that never returned: the program ended in it.
        let Ok(result) = result[..end].parse() else { return Ok(()) };
        let call = Call { name, arguments: arguments.split(", ").collect(), result, began };
        if result < 0 { Ok(()) } else { self.call(&call) }
    }

    fn call(&mut self, call: &Call<'_>) -> Result<()> {
        match call.name {
            "openat" => self.open(call),
            "write" | "pwrite64" => self.write(call),
            "fsync" | "fdatasync" => {
                if let Some(path) = self.path_of_descriptor(call.argument(0)?)? {
                    self.ops.push(Op::Sync { path, before: call.began });
                }
                Ok(())
            }
            "ftruncate" => {
                if let Some(path) = self.path_of_descriptor(call.argument(0)?)? {
                    self.ops.push(Op::Resize { path, len: call.number(1)? });
                }
                Ok(())
            }
            "fallocate" => {
                if let Some(path) = self.path_of_descriptor(call.argument(0)?)? {
                    ensure!(call.argument(1)? == "0", "fallocate with a mode is not modelled");
                    self.ops.push(Op::Reach { path, end: call.number(2)? + call.number(3)? });
                }
                Ok(())
            }
            "lseek" => {
                self.places.insert(descriptor(call.argument(0)?)?, u64::try_from(call.result)?);
                Ok(())
            }
            "rename" | "renameat" | "renameat2" => self.rename(call),
            "unlink" | "rmdir" => {
                let path = self.inside(&unquote(call.argument(0)?)?);
                self.ops.extend(path.map(Op::Unlink));
                Ok(())
            }
            "unlinkat" => {
                let path = self.path_at(call.argument(0)?, call.argument(1)?)?;
                self.ops.extend(path.map(Op::Unlink));
                Ok(())
            }
            "mkdir" => {
                let path = self.inside(&unquote(call.argument(0)?)?);
                self.ops.extend(path.map(Op::Mkdir));
                Ok(())
            }
            "mkdirat" => {
                let path = self.path_at(call.argument(0)?, call.argument(1)?)?;
                self.ops.extend(path.map(Op::Mkdir));
                Ok(())
            }
            "mmap" => self.mmap(call),
            name if HARMLESS.contains(&name) => Ok(()),
            name => self.unknown(name, call),
        }
    }

    fn open(&mut self, call: &Call<'_>) -> Result<()> {
        let flags = call.argument(2)?;
        self.places.insert(u64::try_from(call.result)?, 0);
        let Some(path) = self.path_at(call.argument(0)?, call.argument(1)?)? else { return Ok(()) };
        ensure!(!flags.contains("O_APPEND"), "O_APPEND is not modelled");
        if flags.contains("O_CREAT") {
            self.ops.push(Op::Create(path.clone()));
        }
        if flags.contains("O_TRUNC") {
            self.ops.push(Op::Resize { path, len: 0 });
        }
        Ok(())
    }

    fn write(&mut self, call: &Call<'_>) -> Result<()> {
        let written = u64::try_from(call.result)?;
        let file = call.argument(0)?;
        let offset = if call.name == "pwrite64" {
            call.number(3)?
        } else {
            let place = self.places.entry(descriptor(file)?).or_default();
            *place += written;
            *place - written
        };
        if path_in_brackets(file)?.is_some_and(|path| path == self.marks) {
            self.ops.push(Op::Mark(String::from_utf8(unquote(call.argument(1)?)?)?));
        } else if let Some(path) = self.path_of_descriptor(file)? {
            let mut bytes = unquote(call.argument(1)?)?;
            ensure!(bytes.len() as u64 >= written, "strace cut a write short");
            bytes.truncate(usize::try_from(written)?);
            self.ops.push(Op::Write { path, offset, bytes });
        }
        Ok(())
    }

    fn rename(&mut self, call: &Call<'_>) -> Result<()> {
        let (from, to) = if call.name == "rename" {
            (self.inside(&unquote(call.argument(0)?)?), self.inside(&unquote(call.argument(1)?)?))
        } else {
            let from = self.path_at(call.argument(0)?, call.argument(1)?)?;
            (from, self.path_at(call.argument(2)?, call.argument(3)?)?)
        };
        match (from, to) {
            (Some(from), Some(to)) => self.ops.push(Op::Rename { from, to }),
            (None, None) => {}
            _ => bail!("renamed over the directory's border"),
        }
        Ok(())
    }

    fn mmap(&self, call: &Call<'_>) -> Result<()> {
        let writes = call.argument(2)?.contains("PROT_WRITE") && call.argument(3)?.contains("MAP_SHARED");
        let file = call.argument(4)?;
        if writes && file.contains('<') {
            let path = self.path_of_descriptor(file)?;
            ensure!(path.is_none_or(|p| p.ends_with("-shm")), "a shared mapping is written: {file}");
        }
        Ok(())
    }

    fn unknown(&self, name: &str, call: &Call<'_>) -> Result<()> {
        for argument in &call.arguments {
            let path = if argument.contains('<') {
                self.path_of_descriptor(argument)?
            } else if argument.starts_with('"') {
                self.inside(&unquote(argument)?)
            } else {
                None
            };
            ensure!(path.is_none(), "{name} of {path:?} is not modelled");
        }
        Ok(())
    }

    /// A file in the directory by its descriptor; none where it lies elsewhere or has lost its name.
    fn path_of_descriptor(&self, argument: &str) -> Result<Option<String>> {
        let path = path_in_brackets(argument)?;
        Ok(path.filter(|_| !argument.contains("(deleted)")).and_then(|path| self.inside(path.as_bytes())))
    }

    fn path_at(&self, directory: &str, path: &str) -> Result<Option<String>> {
        let path = unquote(path)?;
        if path.starts_with(b"/") {
            return Ok(self.inside(&path));
        }
        let directory = path_in_brackets(directory)?.context("a relative path without its directory")?;
        Ok(self.inside(&[directory.as_bytes(), b"/", &path].concat()))
    }

    fn inside(&self, path: &[u8]) -> Option<String> {
        let rest = std::str::from_utf8(path).ok()?.strip_prefix(&self.root)?;
        if rest.is_empty() {
            Some(String::new())
        } else {
            rest.strip_prefix('/').map(|p| p.trim_end_matches('/').to_owned())
        }
    }
}

impl Call<'_> {
    fn argument(&self, n: usize) -> Result<&str> {
        self.arguments.get(n).copied().with_context(|| format!("{} without its argument {n}", self.name))
    }

    fn number(&self, n: usize) -> Result<u64> {
        self.argument(n)?.parse().with_context(|| format!("{}: argument {n} is no number", self.name))
    }
}

fn descriptor(argument: &str) -> Result<u64> {
    let number = argument.split('<').next().unwrap_or_default();
    number.parse().with_context(|| format!("{argument} is no descriptor"))
}

/// The path that strace puts behind a descriptor.
fn path_in_brackets(argument: &str) -> Result<Option<String>> {
    let Some((_, path)) = argument.split_once('<') else { return Ok(None) };
    let path = path.split('>').next().unwrap_or_default();
    Ok(String::from_utf8(unescape(path)?).ok())
}

fn unquote(argument: &str) -> Result<Vec<u8>> {
    let inner = argument.strip_prefix('"').and_then(|a| a.split('"').next());
    unescape(inner.with_context(|| format!("{argument:.40} is no string"))?)
}

/// Bytes of which each is written `\xHH`.
fn unescape(text: &str) -> Result<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (groups, rest) = text.as_bytes().as_chunks::<4>();
    let byte = |group: &[u8; 4]| match group {
        [b'\\', b'x', high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    };
    ensure!(rest.is_empty(), "{text:.40} is not all in hexadecimal");
    groups.iter().map(|g| byte(g).with_context(|| format!("{text:.40} is not all in hexadecimal"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> String {
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect()
    }

    #[test]
    fn calls_become_operations() {
        let (root, file, marks) = (hex("/r"), hex("/r/f"), hex("/m"));
        let lines = [
            format!("1 openat(AT_FDCWD<{}>, \"{file}\", O_RDWR|O_CREAT|O_TRUNC, 0666) = 3<{file}>", hex("/")),
            format!("1 write(3<{file}>, \"{}\", 2) = 2", hex("ab")),
            format!("1 write(3<{file}>, \"{}\", 2) = 1", hex("cd")),
            format!("1 write(4<{marks}>, \"{}\", 1) = 1", hex("k")),
            format!("2 fdatasync(3<{file}> <unfinished ...>"),
            format!("1 pwrite64(3<{file}>, \"{}\", 1, 9) = 1", hex("z")),
            "2 <... fdatasync resumed>)          = 0".to_owned(),
            format!("1 write(9<{}>, \"{}\", 1) = 1", hex("/elsewhere"), hex("k")),
            format!("1 pwrite64(3<{file}>(deleted), \"{}\", 1, 9) = 1", hex("z")),
            format!("1 rename(\"{file}\", \"{}\") = 0", hex("/r/g")),
            format!("1 unlinkat(5<{root}>, \"{}\", 0) = -1 ENOENT (No such file or directory)", hex("g")),
            format!("1 unlinkat(5<{root}>, \"{}\", 0) = 0", hex("g")),
            format!("1 fsync(5<{root}>) = 0"),
            "1 +++ exited with 0 +++".to_owned(),
        ];
        let path = || "f".to_owned();
        let write = |offset, bytes: &[u8]| Op::Write { path: path(), offset, bytes: bytes.to_vec() };
        let expected = [
            Op::Create(path()),
            Op::Resize { path: path(), len: 0 },
            write(0, b"ab"),
            write(2, b"c"),
            Op::Mark("k".to_owned()),
            write(9, b"z"),
            Op::Sync { path: path(), before: 5 },
            Op::Rename { from: path(), to: "g".to_owned() },
            Op::Unlink("g".to_owned()),
            Op::Sync { path: String::new(), before: 9 },
        ];
        assert_eq!(parse(lines.join("\n").as_bytes(), "/r", "/m").unwrap(), expected);
    }

    #[test]
    fn what_is_not_modelled_is_an_error() {
        let file = hex("/r/f");
        let rows = [
            format!("1 pwritev(3<{file}>, [{{iov_base=\"{}\", iov_len=1}}], 1, 0) = 1", hex("a")),
            format!("1 fallocate(3<{file}>, FALLOC_FL_PUNCH_HOLE|FALLOC_FL_KEEP_SIZE, 0, 9) = 0"),
            format!("1 mmap(NULL, 9, PROT_READ|PROT_WRITE, MAP_SHARED, 3<{file}>, 0) = 0x7f0000000000"),
            format!("1 rename(\"{file}\", \"{}\") = 0", hex("/away")),
            format!("1 write(3<{file}>, \"{}\"..., 9) = 9", hex("ab")),
        ];
        for row in rows {
            assert!(parse(row.as_bytes(), "/r", "/m").is_err(), "{row}");
        }
    }
}
