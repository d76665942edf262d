/// A point in time as HTTP writes it (RFC 9110 §5.6.7), to the second.
struct HTTPDate: Equatable {
    let secondsSince1970: Int64

    init(secondsSince1970: Int64) {
        self.secondsSince1970 = secondsSince1970
    }

    /// Reads a date; nil if it is none.
    ///
    /// - `Sun, 06 Nov 1994 08:49:37 GMT`, which is all that is written today;
    /// - `Sunday, 06-Nov-94 08:49:37 GMT`, of RFC 850;
    /// - `Sun Nov  6 08:49:37 1994`, of C's `asctime`.
    ///
    /// The century that is missing in the second form is the one that puts it nearest to `now`, at most 50 years ahead. Whether the
    /// day of the week is the right one is not looked at.
    init?(parsing text: String, now: HTTPDate) {
        let words = text.split(separator: " ", omittingEmptySubsequences: false)
        switch words.count {
        case 6 where words[2].isEmpty && words[3].utf8.count == 1:
            self.init(asctime: words[0], month: words[1], day: "0" + words[3], time: words[4], year: words[5])
        case 6:
            guard words[0].last == ",", Self.weekdays.contains(words[0].dropLast()), words[5] == "GMT" else {
                return nil
            }
            self.init(year: Self.number(words[3], 4), month: words[2], day: words[1], time: words[4])
        case 5:
            self.init(asctime: words[0], month: words[1], day: words[2], time: words[3], year: words[4])
        case 4:
            guard words[0].last == ",", Self.longWeekdays.contains(words[0].dropLast()), words[3] == "GMT"
            else {
                return nil
            }
            self.init(day: words[1], time: words[2], now: now)
        default: return nil
        }
    }

    // MARK: - The forms

    private init?(
        asctime weekday: Substring,
        month: Substring,
        day: Substring,
        time: Substring,
        year: Substring
    ) {
        guard Self.weekdays.contains(weekday) else { return nil }
        self.init(year: Self.number(year, 4), month: month, day: day, time: time)
    }

    /// A day of RFC 850, `06-Nov-94`.
    private init?(day: Substring, time: Substring, now: HTTPDate) {
        let parts = day.split(separator: "-", omittingEmptySubsequences: false)
        guard parts.count == 3, let shortYear = Self.number(parts[2], 2) else { return nil }
        // The latest century first. Not every one has the 29th of February.
        let candidates = stride(from: 9900, through: 0, by: -100).lazy.compactMap { century in
            HTTPDate(year: century + shortYear, month: parts[1], day: parts[0], time: time)
        }
        let fiftyYears: Int64 = 50 * 146_097 / 400 * Self.secondsPerDay
        guard let date = candidates.first(where: { $0.secondsSince1970 - now.secondsSince1970 <= fiftyYears })
        else {
            return nil
        }
        self = date
    }

    private init?(year: Int?, month: Substring, day: Substring, time: Substring) {
        let parts = time.split(separator: ":", omittingEmptySubsequences: false)
        guard
            let year, year >= 1,
            let month = Self.months.firstIndex(of: month),
            let day = Self.number(day, 2),
            1...Self.dayCount(ofMonth: month, in: year) ~= day,
            parts.count == 3,
            let hour = Self.number(parts[0], 2), hour < 24,
            let minute = Self.number(parts[1], 2), minute < 60,
            // A minute may have a leap second.
            let second = Self.number(parts[2], 2), second <= 60
        else {
            return nil
        }
        let days =
            Self.dayCount(beforeYear: year) - Self.dayCount(beforeYear: 1970)
            + (0..<month).reduce(0) { $0 + Self.dayCount(ofMonth: $1, in: year) } + day - 1
        self.init(
            secondsSince1970: Int64(days) * Self.secondsPerDay + Int64((hour * 60 + minute) * 60 + second)
        )
    }

    // MARK: - The calendar

    private static let weekdays: [Substring] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
    private static let longWeekdays: [Substring] = [
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    ]
    private static let months: [Substring] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    private static let secondsPerDay: Int64 = 86_400

    /// Days from the first one of year 1 to the first one of this year.
    private static func dayCount(beforeYear year: Int) -> Int {
        let years = year - 1
        return years * 365 + years / 4 - years / 100 + years / 400
    }

    /// Days of a month, of which January is 0.
    private static func dayCount(ofMonth month: Int, in year: Int) -> Int {
        switch month {
        case 1: year.isMultiple(of: 4) && (!year.isMultiple(of: 100) || year.isMultiple(of: 400)) ? 29 : 28
        case 3, 5, 8, 10: 30
        default: 31
        }
    }

    /// A number of exactly so many digits.
    private static func number(_ text: Substring, _ digitCount: Int) -> Int? {
        text.utf8.count == digitCount && text.isDecimal ? Int(text) : nil
    }
}

extension StringProtocol {
    /// Whether it is digits, and nothing else: `Int` reads a sign as well.
    var isDecimal: Bool {
        !self.isEmpty && self.utf8.allSatisfy { UInt8(ascii: "0")...UInt8(ascii: "9") ~= $0 }
    }
}
