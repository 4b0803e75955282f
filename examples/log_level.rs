//! A log level for each request, from its query: `?log_level=debug` or `info`.
//!
//! `cargo run --features http --example log_level`

/// The only code that puts a level into a context, and takes it out.
mod logging {
    use axum::{extract::Request, middleware::Next, response::Response};
    use quell::Context;
    use quell::http::RequestExt;

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Level {
        Debug,
        Info,
    }

    impl Level {
        fn from_name(name: &str) -> Option<Level> {
            match name {
                "debug" => Some(Level::Debug),
                "info" => Some(Level::Info),
                _ => None,
            }
        }
    }

    // No other code can name this type, so no other code can read or cover the value.
    struct AtLeast(Level);

    pub(crate) fn context_with_level(ctx: &Context, level: Level) -> Context {
        ctx.with_value(AtLeast(level))
    }

    pub(crate) fn level_from_context(ctx: &Context) -> Option<Level> {
        ctx.value::<AtLeast>().map(|at_least| at_least.0)
    }

    /// Takes the level from the query. If it is missing, or there is no such level, the context
    /// has none.
    pub(crate) async fn middleware(request: Request, next: Next) -> Response {
        let query = request.uri().query().unwrap_or_default();
        let name = query.split('&').find_map(|pair| pair.strip_prefix("log_level="));
        let ctx = match name.and_then(Level::from_name) {
            Some(level) => context_with_level(&request.context(), level),
            None => request.context(),
        };
        next.run(request.with_context(ctx)).await
    }

    /// Prints what the context's level lets through; nothing at all without a level.
    pub(crate) fn log(ctx: &Context, level: Level, message: &str) {
        let printed = match level_from_context(ctx) {
            Some(Level::Debug) => true,
            Some(Level::Info) => level == Level::Info,
            None => false,
        };
        if printed {
            println!("  {level:?}: {message}");
        }
    }
}

use axum::{Router, middleware, routing::get};
use logging::{Level, log};
use quell::Context;
use quell::http::{Client, Ctx, serve};
use tokio::net::TcpListener;

async fn handler(Ctx(ctx): Ctx) -> &'static str {
    log(&ctx, Level::Debug, "looking for the answer");
    log(&ctx, Level::Info, "the answer was found");
    "42\n"
}

#[tokio::main]
async fn main() {
    let app =
        Router::new().route("/", get(handler)).layer(middleware::from_fn(logging::middleware));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    let (server, stop) = Context::background().with_cancel();
    let served = tokio::spawn(serve(&server, listener, app).into_future());

    let (ctx, client) = (Context::background(), Client::new());
    for path in ["/?log_level=debug", "/?log_level=info", "/?log_level=loud", "/"] {
        println!("GET {path}");
        client.get(&ctx, format!("{base}{path}")).await.expect("an answer");
    }
    stop.cancel();
    served.await.expect("a server that does not panic");
}
