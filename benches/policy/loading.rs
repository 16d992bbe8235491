//! What it takes to load 100,000 rules from files, and to load them again.

use std::{fs, path::Path};

use allocation_counter::measure as count;
use aws_lc_rs::digest::{SHA256, digest};
use vaultmux_mesh::policy::{Loader, Policies};

use crate::{median, print, sets, spent};

const RULES: usize = 100_000;

pub(crate) fn measure(times: usize) {
    let files = sets::files((0..RULES).map(sets::policy));
    let directory = tempfile::tempdir().expect("a directory");
    let write = |(name, text): &(std::path::PathBuf, String)| {
        fs::write(directory.path().join(name), text).expect("written");
    };
    files.iter().for_each(write);
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    print(&format!(
        "\nload {RULES} policies of one rule, {} files, {:.1} MiB of YAML; medians of {times}",
        files.len(),
        bytes as f64 / MIB
    ));

    let mut held = None;
    let memory = count(|| held = Some(Policies::parse(&files, &sets::catalog()).expect("valid")));
    drop(held);
    let (mut first, mut again, mut changed) = (Vec::new(), Vec::new(), Vec::new());
    let mut hashed = Vec::new();
    for _ in 0..times {
        files.iter().for_each(write);
        let mut loader = Loader::default();
        let before = load(&mut loader, directory.path(), &mut first);
        let same = load(&mut loader, directory.path(), &mut again);
        assert!(same.say_the_same_as(&before));
        let started = spent();
        for (name, _) in &files {
            let bytes = fs::read(directory.path().join(name)).expect("just written");
            std::hint::black_box(digest(&SHA256, &bytes));
        }
        hashed.push((spent() - started).as_secs_f64() * 1e3);
        let (name, text) = &files[files.len() / 2];
        write(&(name.clone(), text.replace("verbs: [get]", "verbs: [get, list]")));
        let other = load(&mut loader, directory.path(), &mut changed);
        assert!(!other.say_the_same_as(&before));
    }
    for (name, times) in [
        ("all files, for the first time", &first),
        ("nothing has changed", &again),
        ("one file has changed", &changed),
        ("for comparison: files read and hashed", &hashed),
    ] {
        print(&format!("{name:<40} {:>8.0} ms", median(times)));
    }
    let (held, most) = (memory.bytes_current as f64 / MIB, memory.bytes_max as f64 / MIB);
    print(&format!("{:<40} {held:>8.0} MiB", "policies and index, in memory"));
    print(&format!("{:<40} {most:>8.0} MiB", "the most at once, while reading"));
}

const MIB: f64 = 1024.0 * 1024.0;

fn load(loader: &mut Loader, directory: &Path, times: &mut Vec<f64>) -> Policies {
    let paths = [directory.to_owned()];
    let catalog = sets::catalog();
    let started = spent();
    let policies = loader.load(&paths, &catalog).expect("valid policies");
    times.push((spent() - started).as_secs_f64() * 1e3);
    policies
}
