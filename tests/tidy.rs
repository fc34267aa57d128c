//! The tree keeps what its documents say: who depends on whom, how long files are, that every dependency, command
//! and topic is written down. `UPDATE_GOLDEN=1` writes the texts that are made from the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use toml::{Table, Value};

/// Longest Rust file, tests not counted, in lines.
const LINES_MAX: usize = 600;
/// Crates that read, wait, look at a clock or draw numbers: nothing that the core may need.
const IMPURE: &[&str] = &[
    "async-std",
    "chrono",
    "fjall",
    "futures",
    "futures-core",
    "futures-util",
    "getrandom",
    "hyper",
    "jiff",
    "mio",
    "polling",
    "rand",
    "rdkafka",
    "redb",
    "reqwest",
    "rustls",
    "scylla",
    "smol",
    "socket2",
    "tempfile",
    "time",
    "tokio",
    "ureq",
];
/// What the core's own source must not name.
const IMPURE_NAMES: &[&str] = &[
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant::",
    "HashMap",
    "HashSet",
    "stdin(",
    "println!",
    "async fn",
    "thread_rng",
    "rand::",
];
/// Implementations of ports, and the vendors behind them.
const VENDORS: &[&str] = &[
    "p2_canton",
    "p2_embedded",
    "p2_kafka",
    "p2_model",
    "p2_registry",
    "p2_scylla",
    "rdkafka",
    "redb",
    "scylla",
    "reqwest",
    "prometheus",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file of the tree, relative to its root, without build output and what begins with a dot.
fn files() -> Vec<String> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with('.') && name != ".ci" || name == "target" || name == "__pycache__" {
                continue;
            }
            if path.is_dir() { walk(&path, found) } else { found.push(path) }
        }
    }
    let mut found = Vec::new();
    walk(&root(), &mut found);
    let relative = |path: PathBuf| path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    let mut files: Vec<String> = found.into_iter().map(relative).collect();
    files.sort();
    files
}

fn is_test(path: &str) -> bool {
    path.ends_with("tests.rs") || path.split('/').any(|part| part == "tests")
}

/// The source without the tests at its end.
fn without_tests(source: &str) -> &str {
    match source.find("#[cfg(test)]\nmod tests {") {
        Some(at) => &source[..at],
        None => source,
    }
}

fn rust_sources() -> Vec<(String, String)> {
    let sources = files().into_iter().filter(|path| path.ends_with(".rs") && !is_test(path));
    sources.map(|path| (path.clone(), without_tests(&read(&path)).to_owned())).collect()
}

/// Package name → its manifest.
fn manifests() -> BTreeMap<String, Table> {
    let paths = files().into_iter().filter(|path| path.ends_with("Cargo.toml"));
    let parsed = paths.map(|path| read(&path).parse::<Table>().unwrap());
    parsed.map(|manifest| (manifest["package"]["name"].as_str().unwrap().to_owned(), manifest)).collect()
}

/// The names in the dependency tables of a manifest; the development ones too where asked for.
fn dependencies(manifest: &Table, development: bool) -> BTreeSet<String> {
    let mut tables = vec!["dependencies", "build-dependencies"];
    if development {
        tables.push("dev-dependencies");
    }
    let targets = manifest.get("target").and_then(Value::as_table).into_iter().flat_map(Table::values);
    let places = std::iter::once(manifest).chain(targets.filter_map(Value::as_table));
    let found = places.flat_map(|place| tables.iter().filter_map(|table| place.get(*table)?.as_table()));
    found.flat_map(|table| table.keys().cloned()).collect()
}

/// A package and everything that it is built from, tests and benchmarks left out.
fn built_from(package: &str) -> BTreeSet<String> {
    let arguments = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--locked"];
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn crates_depend_on_each_other_in_one_direction() {
    let manifests = manifests();
    let ours: BTreeSet<String> = manifests.keys().cloned().collect();
    for (name, manifest) in &manifests {
        let allowed: &[&str] = match name.as_str() {
            "p2-core" => &[],
            "p2-stream" => &["p2-core"],
            // The command line puts everything together.
            "p2engine" => continue,
            _ => &["p2-core", "p2-stream"],
        };
        for other in dependencies(manifest, false).intersection(&ours) {
            assert!(
                allowed.contains(&other.as_str()),
                "{name} depends on {other}: only {allowed:?} are below it"
            );
        }
    }
}

#[test]
fn the_core_is_built_from_nothing_that_reads_waits_or_looks_at_a_clock() {
    let all = built_from("p2-core");
    assert!(all.contains("serde_json"), "{all:?}");
    let impure: Vec<&String> = all.iter().filter(|name| IMPURE.contains(&name.as_str())).collect();
    assert!(impure.is_empty(), "p2-core is built from {impure:?}");
}

#[test]
fn the_core_names_nothing_that_reads_waits_or_looks_at_a_clock() {
    let core = rust_sources().into_iter().filter(|(path, _)| path.starts_with("crates/p2-core/src"));
    let mut seen = 0;
    for (path, source) in core {
        seen += 1;
        for (at, line) in source.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            let named = IMPURE_NAMES.iter().find(|name| line.contains(**name));
            assert!(named.is_none(), "{path}:{}: {} in the pure core", at + 1, named.unwrap());
        }
    }
    assert!(seen > 20, "{seen} files");
}

/// Where a vendor or an implementation of a port may be named.
fn may_name(path: &str, vendor: &str) -> bool {
    let own = format!("crates/{}/", vendor.replace('_', "-"));
    let behind = match vendor {
        "redb" => "crates/p2-embedded/",
        "rdkafka" => "crates/p2-kafka/",
        "scylla" => "crates/p2-scylla/",
        "prometheus" => "crates/p2-stream/src/metrics/",
        // Webhooks and the client of the local API speak HTTP too.
        "reqwest" => return !path.starts_with("crates/p2-core") && !path.starts_with("crates/p2-stream"),
        _ => "cli/wiring",
    };
    // Opening log and store, and what operators do to them by name, is wiring as well.
    let wiring = [
        "cli/wiring",
        "cli/local",
        "cli/backend",
        "cli/config",
        "cli/commands/cluster",
        "cli/commands/copy",
        "cli/commands/replay",
        "cli/commands/doctor",
        "cli/commands/run",
        "cli/commands/bench/recovery",
    ];
    path.starts_with(&own) || path.starts_with(behind) || wiring.iter().any(|start| path.starts_with(start))
}

#[test]
fn vendors_are_named_in_their_own_crate_and_in_the_wiring_only() {
    for (path, source) in rust_sources() {
        for vendor in VENDORS {
            let word = format!("{vendor}::");
            let named = source.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                    .any(|part| part.starts_with(&word))
            });
            assert!(!named || may_name(&path, vendor), "{path} names {vendor}: go through a port");
        }
    }
}

#[test]
fn no_rust_file_is_longer_than_600_lines_without_its_tests() {
    let long: Vec<String> = rust_sources()
        .into_iter()
        .map(|(path, source)| (source.lines().count(), path))
        .filter(|(lines, _)| *lines >= LINES_MAX)
        .map(|(lines, path)| format!("{path}: {lines} lines"))
        .collect();
    assert!(long.is_empty(), "split {long:?}");
}

/// A mutant that does not apply proves nothing, and nobody sees it until all are run.
#[test]
fn every_mutant_applies() {
    let root = root();
    if !root.join(".git").exists() {
        println!("not a checkout: whether mutants apply was not looked at");
        return;
    }
    let mut patches: Vec<PathBuf> =
        fs::read_dir(root.join("tests/mutants")).unwrap().map(|entry| entry.unwrap().path()).collect();
    patches.sort();
    assert!(!patches.is_empty());
    let stale = |patch: &&PathBuf| {
        let applies = Command::new("git").arg("-C").arg(&root).args(["apply", "--check"]).arg(patch).output();
        !applies.unwrap().status.success()
    };
    let stale: Vec<&PathBuf> = patches.iter().filter(stale).collect();
    assert!(stale.is_empty(), "make them anew: {stale:?}");
}

#[test]
fn every_direct_dependency_has_a_line_in_the_docs_and_every_line_a_dependency() {
    let manifests = manifests();
    let used: BTreeSet<String> = manifests
        .values()
        .flat_map(|manifest| dependencies(manifest, true))
        .filter(|name| !manifests.contains_key(name))
        .collect();
    let text = read("docs/dependencies.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let named: BTreeSet<String> =
        rows.skip(1).flat_map(|cell| cell.split(", ")).map(|name| name.trim().to_owned()).collect();
    let missing: Vec<_> = used.difference(&named).collect();
    let stale: Vec<_> = named.difference(&used).collect();
    assert!(missing.is_empty(), "docs/dependencies.md: say why {missing:?}");
    assert!(stale.is_empty(), "docs/dependencies.md: nobody uses {stale:?} any more");
    let workspace = &manifests["p2engine"]["workspace"]["dependencies"];
    let declared = workspace.as_table().unwrap().keys();
    let unused: Vec<_> =
        declared.filter(|name| !used.contains(*name) && !manifests.contains_key(*name)).collect();
    assert!(unused.is_empty(), "Cargo.toml: nobody uses {unused:?} of [workspace.dependencies] any more");
}

/// A text that is made from the code: equal to what is written, or written anew.
fn golden(path: &str, expected: &str) {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(root().join(path), expected).unwrap();
    }
    let found = fs::read_to_string(root().join(path)).unwrap_or_default();
    assert!(
        found == expected,
        "{path} is not what the code says; UPDATE_GOLDEN=1 writes it anew:\n{expected}"
    );
}

fn help(words: &[String]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_p2engine")).args(words).arg("--help").output().unwrap();
    assert!(output.status.success(), "{words:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// (name, what it does) of the commands in a help text.
fn subcommands(help: &str) -> Vec<(String, String)> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let mut found: Vec<(String, String)> = Vec::new();
    for line in lines.take_while(|line| !line.is_empty()) {
        let begins = line.starts_with("  ") && !line.starts_with("   ");
        match (begins, line.trim().split_once("  "), found.last_mut()) {
            (true, Some((name, about)), _) => found.push((name.to_owned(), about.trim().to_owned())),
            (true, None, _) => found.push((line.trim().to_owned(), String::new())),
            (false, _, Some((_, about))) => *about = format!("{about} {}", line.trim()).trim().to_owned(),
            (false, _, None) => {}
        }
    }
    found.retain(|(name, _)| name != "help");
    found
}

fn list_commands(words: &[String], text: &mut String) {
    for (name, about) in subcommands(&help(words)) {
        let mut words = words.to_vec();
        words.push(name);
        let own = help(&words);
        if subcommands(&own).is_empty() {
            let usage = own.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or_default();
            *text += &format!("| `{}` | {} |\n", usage.replace('|', "\\|"), about.replace('|', "\\|"));
        } else {
            list_commands(&words, text);
        }
    }
}

#[test]
fn every_command_is_in_the_docs() {
    let mut text = String::from(
        "# Commands\n\nMade from `--help`, which says more about each: options, examples, exit codes.\n\n\
         | command | what it does |\n|---|---|\n",
    );
    list_commands(&[], &mut text);
    assert!(text.contains("conversation rewind"), "{text}");
    golden("docs/commands.md", &text);
}

#[test]
fn every_topic_is_in_the_docs() {
    let docs = read("docs/topics.md");
    let topics = files().into_iter().filter(|path| path.starts_with("topics/") && path.ends_with(".toml"));
    let mut seen = 0;
    for path in topics {
        let spec: Table = read(&path).parse().unwrap();
        let name = spec["name"].as_str().unwrap();
        assert!(docs.contains(&format!("`{name}`")), "docs/topics.md does not name {name} of {path}");
        seen += 1;
    }
    assert!(seen >= 6, "{seen} topics");
}

#[test]
fn the_topology_in_the_readme_is_that_of_the_topics() {
    let readme = read("README.md");
    let (begin, end) = ("<!-- topology -->\n```text\n", "```\n<!-- /topology -->");
    let (head, rest) = readme.split_once(begin).expect("README.md has no topology block");
    let (_, tail) = rest.split_once(end).expect("the topology block of README.md does not end");
    let topology = p2_stream::topics::topology().unwrap();
    golden("README.md", &format!("{head}{begin}{topology}{end}{tail}"));
}

#[test]
fn no_text_names_a_place_of_the_machine_that_it_was_written_on() {
    let places = [["/ro", "ot/"], ["/wo", "rk/"], ["/Us", "ers/"], ["C:\\Us", "ers"], ["/home/", "runner"]];
    for path in files() {
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for place in places.map(|parts| parts.concat()) {
            let found = text.lines().position(|line| line.contains(&place));
            assert!(found.is_none(), "{path}:{}: names {place}", found.unwrap_or_default() + 1);
        }
    }
}
