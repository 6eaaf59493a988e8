/// Decides whether a test that needs `capability` goes ahead. Without it the test says why it does not
/// run and returns; with `FLOCK_REQUIRE_NETNS=1` (set in CI) that is a failure instead, so that a green run
/// cannot hide a skipped test.
///
/// # Panics
///
/// When the capability is missing and `FLOCK_REQUIRE_NETNS=1` is set.
pub fn require(capability: &str, available: bool) -> bool {
    if !available {
        let required = std::env::var_os("FLOCK_REQUIRE_NETNS").is_some_and(|value| value == "1");
        assert!(!required, "{capability} is required by FLOCK_REQUIRE_NETNS=1, and missing");
        println!("skipped: needs {capability}");
    }
    available
}
