internal import HTTPTypes
internal import Starling

#if canImport(FoundationEssentials)
internal import FoundationEssentials
#else
internal import Foundation
#endif

extension HTTPFields {
    /// How long a server that has refused a request wants the client to stay away: `Retry-After`, as seconds or as a date (RFC 9110 §10.2.3).
    ///
    /// A date is compared with the `Date` of the same response, so that two clocks that differ do no harm; with `now`, which is ours, only
    /// if there is none. One that has passed is no delay. No delay is longer than ``RetryHint/delayMax``; what cannot be understood is
    /// nil.
    func retryDelay(now: HTTPDate) -> Duration? {
        guard let value = self[.retryAfter] else { return nil }
        let seconds: Int64
        if value.isDecimal {
            seconds = Int64(value) ?? .max
        } else if let date = HTTPDate(parsing: value, now: now) {
            let sent = self[.date].flatMap { HTTPDate(parsing: $0, now: now) } ?? now
            seconds = Swift.max(0, date.secondsSince1970 - sent.secondsSince1970)
        } else {
            return nil
        }
        return Swift.min(.seconds(seconds), RetryHint.delayMax)
    }
}

extension HTTPDate {
    /// The time by this machine's clock.
    static var now: HTTPDate {
        HTTPDate(secondsSince1970: Int64(Date().timeIntervalSince1970))
    }
}
