//! Runs the fuzz targets over their corpora: what a fuzzer has found once stays found.
#![cfg(all(not(loom), feature = "check"))]
#![allow(missing_docs, unreachable_pub)]

#[cfg(feature = "http")]
#[path = "../fuzz/shared/headers.rs"]
mod headers;
#[path = "../fuzz/shared/orderings.rs"]
mod orderings;
#[path = "../fuzz/shared/pipelines.rs"]
mod pipelines;

fn each(target: &str, run: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 4, "{folder}");
    for file in files {
        println!("{}", file.display());
        run(&std::fs::read(file).unwrap());
    }
}

#[test]
fn every_pipeline_of_the_corpus_stops() {
    each("pipeline_schedules", pipelines::run);
}

#[cfg(feature = "http")]
#[test]
fn no_header_of_the_corpus_gives_more_time_than_there_was() {
    each("header_parse", headers::run);
}

#[test]
fn every_ordering_of_the_corpus_is_as_the_model_says() {
    each("cancel_orderings", orderings::run);
}

#[test]
fn random_bytes_do_no_harm_either() {
    let mut seed = 1_u64;
    let mut byte = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as u8
    };
    for length in 0..300 {
        let bytes: Vec<u8> = (0..length % 64).map(|_| byte()).collect();
        pipelines::run(&bytes);
        orderings::run(&bytes);
        #[cfg(feature = "http")]
        headers::run(&bytes);
    }
}
