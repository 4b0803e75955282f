//! User code in a folder with the name of the standard library's.

/// Waits for an item that does not come.
pub(crate) async fn reads(mut items: tokio::sync::mpsc::Receiver<u32>) {
    items.recv().await;
}
