//! Builds and finds the examples, for the tests that run them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the examples, built as this test was.
pub(crate) fn examples() -> &'static PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        // target/debug/deps/examples-0123
        let here = std::env::current_exe().expect("the path of this test");
        let profile = here.ancestors().nth(2).expect("a folder with the profile's name");
        let target = profile.parent().expect("a target folder");
        let name = profile.file_name().expect("a name").to_str().expect("a plain one");
        let mut build = Command::new(env!("CARGO"));
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        build.args(["build", "--quiet", "--examples", "--target-dir"]);
        // Unset what cargo tells a test of its package: a dependency's build script may ask for it,
        // and everything above that would be compiled again, here and in the calling build.
        for (name, _) in std::env::vars_os() {
            let plain = name.to_string_lossy();
            if plain.starts_with("CARGO_PKG_") || plain.starts_with("CARGO_MANIFEST_") {
                build.env_remove(&name);
            }
        }
        build.arg(target);
        // With this test's features, so that nothing is compiled twice.
        if !cfg!(feature = "tokio") {
            build.arg("--no-default-features");
        }
        if name != "debug" {
            build.args(["--profile", name]);
        }
        for (feature, on) in [
            ("tokio-util", cfg!(feature = "tokio-util")),
            ("tracing", cfg!(feature = "tracing")),
            ("http", cfg!(feature = "http")),
            ("tls", cfg!(feature = "tls")),
            ("check", cfg!(feature = "check")),
            ("proptest", cfg!(feature = "proptest")),
            ("cli", cfg!(feature = "cli")),
            // It only stands for the others, but is a feature all the same.
            ("full", cfg!(feature = "full")),
        ] {
            if on {
                build.args(["--features", feature]);
            }
        }
        assert!(build.status().expect("cargo runs").success(), "the examples do not compile");
        profile.join("examples")
    })
}
