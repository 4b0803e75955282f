//! The context of a request, in middleware and in handlers.

use crate::context::Context;
use ::http::{Extensions, Request, request::Parts};
use axum_core::extract::FromRequestParts;
use std::borrow::Borrow;
use std::convert::Infallible;
use std::ops::Deref;

/// Reads a request's context, or replaces it.
///
/// A middleware usually takes the context, derives another one from it, and passes the request on
/// with that.
///
/// ```
/// use http::Request;
/// use quell::http::RequestExt;
///
/// struct User(String);
///
/// fn with_user<B>(request: Request<B>, name: &str) -> Request<B> {
///     let ctx = request.context().with_value(User(name.to_string()));
///     request.with_context(ctx)
/// }
/// # let request = with_user(Request::new(()), "ann");
/// # assert_eq!(request.context().value::<User>().unwrap().0, "ann");
/// ```
pub trait RequestExt: Sized {
    /// Returns the context of this request. A request that went through no
    /// [`ContextLayer`](crate::http::ContextLayer) has none; it gets [`Context::todo`], which never
    /// ends and shows the line of this call.
    #[track_caller]
    fn context(&self) -> Context;

    /// Returns the request with this context instead, for the services further in.
    #[must_use = "the request was taken; this is the one to pass on"]
    fn with_context(self, ctx: impl Borrow<Context>) -> Self;
}

#[track_caller]
fn context(extensions: &Extensions) -> Context {
    match extensions.get::<Context>() {
        Some(ctx) => ctx.clone(),
        None => Context::todo(),
    }
}

impl<B> RequestExt for Request<B> {
    #[track_caller]
    fn context(&self) -> Context {
        context(self.extensions())
    }

    fn with_context(mut self, ctx: impl Borrow<Context>) -> Self {
        self.extensions_mut().insert(ctx.borrow().clone());
        self
    }
}

impl RequestExt for Parts {
    #[track_caller]
    fn context(&self) -> Context {
        context(&self.extensions)
    }

    fn with_context(mut self, ctx: impl Borrow<Context>) -> Self {
        self.extensions.insert(ctx.borrow().clone());
        self
    }
}

/// The context of a request, as an argument of an axum handler.
///
/// ```
/// use quell::http::Ctx;
///
/// async fn handler(Ctx(ctx): Ctx) -> String {
///     format!("{:?} left\n", ctx.remaining())
/// }
/// # let _: axum::routing::MethodRouter = axum::routing::get(handler);
/// ```
///
/// Extraction cannot fail: see [`RequestExt::context`] for a request without a context.
#[derive(Clone, Debug)]
pub struct Ctx(pub Context);

impl<S: Send + Sync> FromRequestParts<S> for Ctx {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Ctx(parts.context()))
    }
}

impl Deref for Ctx {
    type Target = Context;

    fn deref(&self) -> &Context {
        &self.0
    }
}
