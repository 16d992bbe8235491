//! What is read, and what is refused.

use super::*;

#[test]
fn durations_are_read_as_protobuf_go_and_istio_write_them() {
    for (text, expected) in [
        ("1s", Some(1.0)),
        ("0.25s", Some(0.25)),
        ("250ms", Some(0.25)),
        ("10m", Some(600.0)),
        ("1h0m5s", Some(3605.0)),
        ("0s", Some(0.0)),
        ("", None),
        ("soon", None),
        ("5", None),
        ("1.2.3s", None),
    ] {
        assert_eq!(seconds(text), expected, "{text}");
    }
}

#[test]
fn keys_are_found_in_both_spellings_with_their_lines() {
    let text = "a_b:\n  cD: [1, x]\n  e: ~\n";
    let node = documents(text, 10).remove(0).expect("valid");
    assert_eq!(node.at("aB/c_d").map(|list| list.items().len()), Some(2));
    assert_eq!(node.line_of("aB"), 11);
    assert!(node.at("a_b/e").is_none(), "null is absent");
    assert_eq!(node.get("aB").map(|inner| inner.line_of("c_d")), Some(12));
}

#[test]
fn bombs_are_refused_and_do_not_hide_what_is_wrong() {
    let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
    assert!(documents(&deep, 0).iter().any(Result::is_err));
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for n in 1..9 {
        laughs += &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    assert!(documents(&laughs, 0).iter().any(Result::is_err));
}
