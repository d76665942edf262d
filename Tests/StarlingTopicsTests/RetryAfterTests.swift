import HTTPTypes
import Testing

@testable import StarlingTopics

@Suite struct RetryAfterTests {
    /// Sun, 06 Nov 1994 08:49:37 GMT.
    private static let example = HTTPDate(secondsSince1970: 784_111_777)

    private func date(_ text: String, now: HTTPDate = example) -> Int64? {
        HTTPDate(parsing: text, now: now)?.secondsSince1970
    }

    @Test(
        "A date is read in each of its three forms",
        arguments: [
            "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994",
        ]
    )
    func forms(text: String) {
        #expect(self.date(text) == 784_111_777)
    }

    @Test(
        "Days are counted over months, leap years and centuries",
        arguments: [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Wed, 31 Dec 1969 23:59:59 GMT", -1),
            ("Tue, 29 Feb 2000 23:59:59 GMT", 951_868_799),
            ("Wed, 01 Mar 2000 00:00:00 GMT", 951_868_800),
            ("Sat, 31 Dec 2016 23:59:60 GMT", 1_483_228_800),
            ("Wed Nov 25 06:52:12 2026", 1_795_589_532),
            ("Mon, 01 Mar 2100 00:00:00 GMT", 4_107_542_400),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Mon, 01 Jan 0001 00:00:00 GMT", -62_135_596_800),
        ] as [(String, Int64)]
    )
    func days(text: String, seconds: Int64) {
        #expect(self.date(text) == seconds)
    }

    @Test("Each day follows the one before, over a century that is a leap year and one that is none")
    func everyDay() throws {
        let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
        var expected = try #require(self.date("Mon, 01 Jan 1996 00:00:00 GMT"))
        var wrong: [String] = []
        for year in 1996..<2104 {
            for month in months {
                for day in 1...31 {
                    let text = "Sat, \(day < 10 ? "0" : "")\(day) \(month) \(year) 00:00:00 GMT"
                    guard let seconds = self.date(text) else {
                        if day < 29 { wrong.append(text) }
                        continue
                    }
                    if seconds != expected { wrong.append(text) }
                    expected = seconds + 86_400
                }
            }
        }
        #expect(wrong.isEmpty)
        #expect(expected == self.date("Tue, 01 Jan 2104 00:00:00 GMT"))
    }

    @Test("A century that is not said is at most 50 years ahead")
    func centuries() {
        let day = "Saturday, 01-Jan-44 00:00:00 GMT"
        #expect(self.date(day) == self.date("Fri, 01 Jan 2044 00:00:00 GMT"))
        let other = "Sunday, 01-Jan-45 00:00:00 GMT"
        #expect(self.date(other) == self.date("Mon, 01 Jan 1945 00:00:00 GMT"))
        let now = HTTPDate(secondsSince1970: 1_795_589_532)
        #expect(self.date(other, now: now) == self.date("Sun, 01 Jan 2045 00:00:00 GMT"))
        #expect(self.date("Sunday, 06-Nov-94 08:49:37 GMT", now: now) == 784_111_777)
        // 1900 and 2100 have no such day.
        #expect(self.date("Tuesday, 29-Feb-00 00:00:00 GMT", now: now) == 951_782_400)
    }

    @Test(
        "What is no date is none",
        arguments: [
            "", " ", "      ", "GMT", "soon", "Sun", "Sun,", "Sun, 06 Nov 1994 08:49:37",
            "Sun, 06 Nov 1994 08:49:37 UTC",
            "Sun, 06 Nov 1994 08:49:37 GMT ", " Sun, 06 Nov 1994 08:49:37 GMT",
            "Sun,  06 Nov 1994 08:49:37 GMT",
            "Sun 06 Nov 1994 08:49:37 GMT", "sun, 06 Nov 1994 08:49:37 GMT", "Son, 06 Nov 1994 08:49:37 GMT",
            "Sun, 6 Nov 1994 08:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT", "Sun, 31 Nov 1994 08:49:37 GMT",
            "Sun, 29 Feb 1900 08:49:37 GMT", "Sun, 29 Feb 2026 08:49:37 GMT", "Sun, 06 Nov 0000 08:49:37 GMT",
            "Sun, 06 Nov 94 08:49:37 GMT", "Sun, 06 Nov 19940 08:49:37 GMT", "Sun, 06 Nov -994 08:49:37 GMT",
            "Sun, 06 Nvo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 24:00:00 GMT", "Sun, 06 Nov 1994 08:60:00 GMT",
            "Sun, 06 Nov 1994 08:49:61 GMT", "Sun, 06 Nov 1994 8:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1994 +8:49:37 GMT", "Sun, 06 Nov 1994 08:49:37:00 GMT",
            "Sun, 06 Nov 1994 08:49:３７ GMT",
            "Sunday, 06-Nov-1994 08:49:37 GMT", "Sun, 06-Nov-94 08:49:37 GMT", "Sunday, 06-Nov 08:49:37 GMT",
            "Sunday, 06-Nov-9x 08:49:37 GMT", "Sunday, 32-Nov-94 08:49:37 GMT",
            "Sunday 06-Nov-94 08:49:37 GMT",
            "Sun Nov 6 08:49:37 1994", "Sun Nov  06 08:49:37 1994", "Sun Nov   6 08:49:37 1994",
            "Sun Nov  x 08:49:37 1994",
            "Sun, Nov  6 08:49:37 1994", "Sun Nov 16 08:49:37 94", "1994-11-06T08:49:37Z", "784111777.0",
        ]
    )
    func malformed(text: String) {
        #expect(self.date(text) == nil)
    }

    // MARK: - The delay

    private func delay(_ value: String, date: String? = nil) -> Duration? {
        var fields: HTTPFields = [.retryAfter: value]
        fields[.date] = date
        return fields.retryDelay(now: Self.example)
    }

    @Test(
        "Seconds are taken as they are, up to an hour",
        arguments: [
            ("0", 0), ("7", 7), ("007", 7), ("3600", 3600), ("3601", 3600),
            ("99999999999999999999999999", 3600),
        ]
    )
    func seconds(value: String, expected: Int64) {
        #expect(self.delay(value) == .seconds(expected))
    }

    @Test(
        "A date is a delay from now, up to an hour; one that has passed is none",
        arguments: [
            ("Sun, 06 Nov 1994 08:49:40 GMT", 3), ("Sunday, 06-Nov-94 08:50:37 GMT", 60),
            ("Sun Nov  6 08:49:38 1994", 1), ("Sun, 06 Nov 1994 08:49:37 GMT", 0),
            ("Sun, 06 Nov 1994 08:49:36 GMT", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Mon, 01 Jan 0001 00:00:00 GMT", 0), ("Mon, 07 Nov 1994 08:49:37 GMT", 3600),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ]
    )
    func dates(value: String, expected: Int64) {
        #expect(self.delay(value) == .seconds(expected))
    }

    @Test("A date counts from the server's own clock, if the response tells it")
    func clocksThatDiffer() {
        let date = "Wed, 25 Nov 2026 07:00:05 GMT"
        #expect(self.delay(date, date: "Wed, 25 Nov 2026 07:00:00 GMT") == .seconds(5))
        #expect(self.delay(date, date: "Wed, 25 Nov 2026 07:00:06 GMT") == .zero)
        #expect(self.delay(date, date: "some time") == .seconds(3600))
        #expect(self.delay("9", date: "Wed, 25 Nov 2026 07:00:00 GMT") == .seconds(9))
    }

    @Test(
        "What is neither is no hint",
        arguments: ["", "-1", "+1", "1.5", "1 s", "soon", "Sun, 06 Nov 1994", "٣"]
    )
    func neither(value: String) {
        #expect(self.delay(value) == nil)
        #expect(HTTPFields().retryDelay(now: Self.example) == nil)
    }
}
