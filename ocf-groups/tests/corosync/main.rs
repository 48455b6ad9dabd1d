//! Goal: on a corosync that runs already, membership and groups keep what they promise there.
//!
//! Method: three corosync nodes with votequorum in network namespaces, a provider on each, and the suites that this project's own
//! providers pass.
#![expect(clippy::disallowed_methods, reason = "real daemons take real time")]

#[path = "../../../tests/lab/corosync.rs"]
mod lab;
mod machines;
mod nodes;

use nodes::OnCorosync;

#[test]
#[ignore = "needs root, network namespaces and corosync: .ci/run installs it"]
fn views_on_a_running_corosync_conform() {
    ocf_membership::testing::check_membership(OnCorosync::new);
}

#[test]
#[ignore = "needs root, network namespaces and corosync: .ci/run installs it"]
fn groups_on_a_running_corosync_conform() {
    ocf_groups::testing::check_groups(OnCorosync::new);
}
