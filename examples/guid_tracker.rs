//! A tracking id that passes through two services and every line of their logs, without
//! the business logic knowing of it.
//!
//! `cargo run --features http --example guid_tracker`

/// The business logic. It is given what it needs, and passes its context on.
mod logic {
    use quell::{BoxError, Context};
    use std::{future::Future, pin::Pin, sync::Arc};

    pub(crate) trait Logger: Send + Sync {
        fn log(&self, ctx: &Context, message: &str);
    }

    /// Another service: takes a path, gives an answer.
    pub(crate) type Remote = Arc<
        dyn Fn(Context, String) -> Pin<Box<dyn Future<Output = Result<String, BoxError>> + Send>>
            + Send
            + Sync,
    >;

    #[derive(Clone)]
    pub(crate) struct Logic {
        pub(crate) logger: Arc<dyn Logger>,
        pub(crate) second: Remote,
    }

    impl Logic {
        pub(crate) async fn process(&self, ctx: &Context, data: &str) -> Result<String, BoxError> {
            self.logger.log(ctx, &format!("first service: processing {data}"));
            let path = format!("/second?query={data}");
            let answer = (self.second)(ctx.clone(), path).await;
            if let Err(error) = &answer {
                self.logger.log(ctx, &format!("first service: {error}"));
            }
            answer
        }
    }
}

use axum::http::{Request, StatusCode, Uri};
use axum::{Router, body::Body, routing::get};
use logic::{Logger, Logic};
use quell::http::{Client, Ctx, PropagationLayer, TrackingId, serve};
use quell::{BoxError, Context};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Prefixes each line with the id that it finds in the context.
struct TrackingLogger;

impl Logger for TrackingLogger {
    fn log(&self, ctx: &Context, message: &str) {
        match ctx.value::<TrackingId>() {
            Some(id) => println!("GUID {id}: {message}"),
            None => println!("{message}"),
        }
    }
}

/// Starts a server whose requests have the id of `X-GUID`, or a new one.
async fn start(server: &Context, app: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let app = app.layer(PropagationLayer::new());
    tokio::spawn(serve(server, listener, app).into_future());
    base
}

async fn second(Ctx(ctx): Ctx, uri: Uri) -> (StatusCode, &'static str) {
    let query = uri.query().unwrap_or_default();
    TrackingLogger.log(&ctx, &format!("second service: {query}"));
    match query {
        "query=tea" => (StatusCode::OK, "done"),
        _ => (StatusCode::NOT_FOUND, "no such thing"),
    }
}

// The only place that knows of both the logic and the tracking.
#[tokio::main]
async fn main() {
    let (server, _stop) = Context::background().with_cancel();
    let remote = start(&server, Router::new().route("/second", get(second))).await;

    let client = Client::new(); // sends the id of the context that it is given
    let logic = Logic {
        logger: Arc::new(TrackingLogger),
        second: Arc::new(move |ctx, path| {
            let (client, url) = (client.clone(), format!("{remote}{path}"));
            Box::pin(async move {
                let answer = client.get(&ctx, url).await?;
                if answer.status() != StatusCode::OK {
                    return Err(BoxError::from(format!("unexpected status {}", answer.status())));
                }
                Ok(answer.into_body().text(1000).await?)
            })
        }),
    };
    let first = move |Ctx(ctx): Ctx, uri: Uri| async move {
        let data = uri.query().and_then(|query| query.strip_prefix("data=")).unwrap_or_default();
        logic.process(&ctx, data).await.map_err(|_| StatusCode::BAD_GATEWAY)
    };
    let base = start(&server, Router::new().route("/first", get(first))).await;

    let ctx = Context::background();
    for (id, data) in [(Some("order-66"), "tea"), (None, "tea"), (Some("order-67"), "coal")] {
        let mut request = Request::get(format!("{base}/first?data={data}"));
        if let Some(id) = id {
            request = request.header("X-GUID", id);
        }
        let request = request.body(Body::empty()).expect("a request");
        println!("with {}:", id.unwrap_or("no id"));
        let answer = Client::new().send(&ctx, request).await.expect("an answer");
        println!("{}", answer.status());
    }
}
