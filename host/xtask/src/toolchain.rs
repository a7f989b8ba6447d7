//! A compiler for guests. There are three ways to one, tried in this order:
//!
//! 1. the target is installed, or `rustup target add` installs it: plain cargo;
//! 2. a toolchain that the third way has made before;
//! 3. on Debian without a rustup that can download: Debian's own rustc is unpacked, not installed, into a cache folder,
//!    and the standard library is compiled for the target once. It takes no root and about a minute.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, anyhow, bail};

use crate::{cargo, output_of, run_command};

/// What guests are compiled for: WebAssembly with no system interface at all.
pub(crate) const TARGET: &str = "wasm32-unknown-unknown";

/// The variable that says where the third way keeps its toolchain.
const CACHE_VARIABLE: &str = "TAILWEIR_GUEST_TOOLCHAIN";

/// The variable that makes this program stand in for rustc; see [`run_wrapped`]. It holds the repository's folder.
pub(crate) const WRAPPER_VARIABLE: &str = "TAILWEIR_RUSTC_WRAPPER";

/// The metapackage whose dependencies name the compiler's packages.
const DEBIAN_PACKAGE: &str = "libstd-rust-web-dev";

/// A compiler that has a standard library for [`TARGET`].
pub(crate) struct Toolchain {
    /// Its version, for file names and messages.
    id: String,
    /// The compiler, unless it is the one that cargo uses anyway.
    private: Option<Private>,
}

struct Private {
    rustc: PathBuf,
    linker: PathBuf,
}

impl Toolchain {
    /// Finds one, or makes one.
    pub(crate) fn find() -> Result<Self> {
        if has_target(&sysroot()?) {
            return Self::plain();
        }
        let cache = cache_folder()?;
        if !cache.join("complete").exists() {
            let why = match add_target() {
                Ok(()) => return Self::plain(),
                Err(why) => why,
            };
            eprintln!("no compiler for guests yet: unpacking Debian's into {} (once)", cache.display());
            debian(&cache).map_err(|e| {
                anyhow!(
                    "there is no Rust standard library for {TARGET}: `rustup target add {TARGET}` says: {why:#}. \
                     Taking Debian's compiler instead: {e:#}. Install the target with rustup, or your system's package \
                     of it."
                )
            })?;
        }
        let rustc = cache.join("bin/rustc");
        let linker = sysroot()?.join("lib/rustlib").join(host()?).join("bin/rust-lld");
        if !linker.exists() {
            bail!("no WebAssembly linker: {} is missing", linker.display());
        }
        Ok(Self { id: version(&rustc)?, private: Some(Private { rustc, linker }) })
    }

    fn plain() -> Result<Self> {
        Ok(Self { id: version(Path::new("rustc"))?, private: None })
    }

    /// The compiler's name and version, such as `rustc-1.95.0`.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// What must be in the environment for plain cargo to use it: a variable in each line.
    pub(crate) fn variables(&self) -> String {
        self.private.as_ref().map_or_else(String::new, |Private { rustc, linker }| {
            let (rustc, linker) = (rustc.display(), linker.display());
            format!("RUSTC={rustc}\nCARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER={linker}\n")
        })
    }

    /// Makes a cargo command use it, and keep this machine's paths out of what it makes: the same source then gives the
    /// same bytes in any folder.
    pub(crate) fn configure(&self, command: &mut Command, root: &Path) -> Result<()> {
        for variable in
            ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR", "RUSTC"]
        {
            command.env_remove(variable);
        }
        let home = cargo_home()?;
        let mut flags = vec![remap(root, "/tailweir"), remap(&home, "/cargo")];
        // Where a registry is mirrored, its folder has another name. The last prefix that fits counts.
        for registry in fs::read_dir(home.join("registry/src")).into_iter().flatten().flatten() {
            flags.push(remap(&registry.path(), "/registry"));
        }
        command.env("RUSTC_WRAPPER", env::current_exe()?).env(WRAPPER_VARIABLE, root);
        command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS", flags.join(" "));
        if let Some(Private { rustc, linker }) = &self.private {
            command.env("RUSTC", rustc).env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", linker);
        }
        Ok(())
    }
}

/// Runs the compiler as cargo asks for it, but for one thing: cargo makes the folder of a crate of ours a part of its
/// identity, and functions are ordered by that. Here a crate's name identifies it.
pub(crate) fn run_wrapped() -> ExitCode {
    let mut arguments = env::args_os().skip(1);
    let rustc = arguments.next().unwrap_or_default();
    let root = env::var_os(WRAPPER_VARIABLE).unwrap_or_default();
    let ours = env::var_os("CARGO_MANIFEST_DIR").is_some_and(|folder| Path::new(&folder).starts_with(&root));
    let name = env::var("CARGO_CRATE_NAME").unwrap_or_default();
    let fixed = arguments.map(|argument| match argument.to_str() {
        Some(text) if ours && text.starts_with("metadata=") => format!("metadata={name}").into(),
        _ => argument,
    });
    match Command::new(&rustc).args(fixed).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(e) => {
            eprintln!("error: cannot run `{}`: {e}", rustc.display());
            ExitCode::FAILURE
        }
    }
}

fn remap(from: &Path, to: &str) -> String {
    format!("--remap-path-prefix={}={to}", from.display())
}

fn rustc() -> Command {
    Command::new("rustc")
}

fn sysroot() -> Result<PathBuf> {
    let path =
        output_of(rustc().args(["--print", "sysroot"])).context("Rust is missing; see https://rustup.rs")?;
    Ok(path.trim().into())
}

fn has_target(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib").join(TARGET).join("lib").is_dir()
}

fn host() -> Result<String> {
    let version = output_of(rustc().arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// `rustc 1.95.0 (…)` as `rustc-1.95.0`.
fn version(rustc: &Path) -> Result<String> {
    let version = output_of(Command::new(rustc).arg("--version"))?;
    Ok(version.split_whitespace().take(2).collect::<Vec<_>>().join("-"))
}

fn add_target() -> Result<()> {
    output_of(Command::new("rustup").args(["target", "add", TARGET])).map(drop)
}

fn home() -> Result<PathBuf> {
    env::home_dir().context("no home folder")
}

fn cargo_home() -> Result<PathBuf> {
    Ok(match env::var_os("CARGO_HOME") {
        Some(folder) => folder.into(),
        None => home()?.join(".cargo"),
    })
}

fn cache_folder() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(CACHE_VARIABLE) {
        return Ok(folder.into());
    }
    let caches = env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home().map(|home| home.join(".cache")), |c| Ok(c.into()))?;
    Ok(caches.join("tailweir-guest-toolchain"))
}

/// Makes the third way's toolchain. It appears under its name when it is complete.
fn debian(cache: &Path) -> Result<()> {
    let work = cache.with_extension(format!("partial-{}", std::process::id()));
    let made = unpack(&work).and_then(|()| build_std(&work)).and_then(|()| {
        let _ = fs::remove_dir_all(cache);
        fs::write(work.join("complete"), "")?;
        fs::rename(&work, cache).with_context(|| format!("cannot make {}", cache.display()))
    });
    if made.is_err() {
        let _ = fs::remove_dir_all(&work);
    }
    made
}

/// Unpacks rustc, its libraries and the standard library's source.
fn unpack(work: &Path) -> Result<()> {
    let apt = Apt::new(&work.join("apt"))?;
    let standard = apt.dependency(DEBIAN_PACKAGE, "libstd-rust-web-")?;
    let llvm = apt.dependency(&standard, "libllvm")?;
    let packages = work.join("debs");
    fs::create_dir_all(&packages)?;
    let names = ["rustc-web", DEBIAN_PACKAGE, &standard, &llvm, "rust-web-src"];
    output_of(apt.command("apt-get").current_dir(&packages).arg("download").args(names))?;
    for package in fs::read_dir(&packages)? {
        output_of(Command::new("dpkg").arg("-x").arg(package?.path()).arg(work))?;
    }
    fs::create_dir_all(work.join("bin"))?;
    let script = "#!/bin/sh\n\
        # A rustc that finds its libraries without being installed.\n\
        usr=$(dirname \"$0\")/../usr\n\
        LD_LIBRARY_PATH=\"$usr/lib/x86_64-linux-gnu${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}\" exec \"$usr/bin/rustc\" \"$@\"\n";
    let multiarch = output_of(Command::new("dpkg-architecture").args(["-q", "DEB_HOST_MULTIARCH"]));
    let multiarch =
        multiarch.map_or_else(|_| format!("{}-linux-gnu", env::consts::ARCH), |m| m.trim().to_owned());
    let rustc = work.join("bin/rustc");
    fs::write(&rustc, script.replace("x86_64-linux-gnu", &multiarch))?;
    make_executable(&rustc)?;
    version(&rustc).context("Debian's rustc does not run here")?;
    for leftover in ["debs", "apt", "usr/share/doc", "usr/share/man"] {
        let _ = fs::remove_dir_all(work.join(leftover));
    }
    Ok(())
}

#[cfg(unix)]
fn make_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(not(unix))]
fn make_executable(_path: &Path) -> Result<()> {
    Ok(())
}

/// Compiles the standard library and puts it where the compiler looks for it.
fn build_std(work: &Path) -> Result<()> {
    let crate_dir = work.join("std");
    fs::create_dir_all(crate_dir.join("src"))?;
    let manifest = "[package]\nname = \"std-build\"\nversion = \"0.0.0\"\nedition = \"2024\"\n[workspace]\n\
        [profile.release]\npanic = \"abort\"\ndebug = 0\n";
    fs::write(crate_dir.join("Cargo.toml"), manifest)?;
    fs::write(crate_dir.join("src/lib.rs"), "")?;

    let usr = work.join("usr");
    let source = usr.join("lib/rustlib/src/rust");
    let flags = [
        "-Cembed-bitcode=yes".to_owned(),
        remap(&cargo_home()?, "/cargo"),
        remap(&usr, "/rust"),
        remap(&source, "/rust"),
    ];
    let mut command = cargo();
    command.current_dir(&crate_dir).args(["build", "--quiet", "--release", "--target", TARGET]);
    command.arg("-Zbuild-std=std,panic_abort").arg("--target-dir").arg(crate_dir.join("target"));
    command
        .env("RUSTC", work.join("bin/rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", flags.join(" "));
    command.env_remove("CARGO_ENCODED_RUSTFLAGS");
    run_command(&mut command).context("cannot compile the standard library")?;

    let library = usr.join("lib/rustlib").join(TARGET).join("lib");
    fs::create_dir_all(&library)?;
    for made in fs::read_dir(crate_dir.join("target").join(TARGET).join("release/deps"))? {
        let made = made?.path();
        let name = made.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with("lib") && name.ends_with(".rlib") && !name.starts_with("libstd_build") {
            fs::copy(&made, library.join(&name))?;
        }
    }
    fs::remove_dir_all(&crate_dir)?;
    let _ = fs::remove_dir_all(usr.join("src"));
    Ok(())
}

/// Debian's package tools, with package lists of our own where the system has none.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(folder: &Path) -> Result<Self> {
        let system = Self { options: Vec::new() };
        match system.dependency(DEBIAN_PACKAGE, "libstd-rust-web-") {
            Ok(_) => return Ok(system),
            Err(e) if e.downcast_ref::<std::io::Error>().is_some() => return Err(e),
            Err(_) => {}
        }
        for part in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(folder.join(part))?;
        }
        let option = |key: &str, part: &str| format!("-o{key}={}", folder.join(part).display());
        let own = Self { options: vec![option("Dir::State::lists", "lists"), option("Dir::Cache", "cache")] };
        output_of(own.command("apt-get").arg("update")).context("cannot fetch Debian's package lists")?;
        Ok(own)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).arg("-q");
        command
    }

    /// The package that `package` depends on and whose name starts with `prefix`.
    fn dependency(&self, package: &str, prefix: &str) -> Result<String> {
        let arguments = ["depends", "--no-recommends", "--no-suggests", package];
        let depends = output_of(self.command("apt-cache").args(arguments))?;
        let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        let found = names.map(str::trim).find(|name| name.starts_with(prefix) && *name != DEBIAN_PACKAGE);
        Ok(found.with_context(|| format!("no package `{prefix}…` that {package} depends on"))?.to_owned())
    }
}
