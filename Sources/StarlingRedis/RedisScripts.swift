/// The two things that must happen in Redis as one.
///
/// A topic's `meta` hash holds the epoch (`e`, eight bytes), the run of Redis that it belongs to (`r`), the name of what that
/// run had as a master (`d`, its `master_replid`), the newest offset (`o`) and the bytes in the stream (`b`). Entries of the
/// `stream` have the offset for an id.
///
/// A new run of Redis, or a failover, begins a new epoch: what was written last may be lost with the old one, and nobody
/// can tell. The run alone does not tell: a master that hangs, becomes a replica, and is the master again later, lacks what was
/// written meanwhile, and is the same run. A slot that moves between the living masters of a Cluster takes its epoch along, but
/// not to one that was a replica before: it may have the slot's state of before from the master that it followed.
///
/// `d` is missing where a node of an earlier version began the epoch; such a node reads the others.
struct RedisScripts {
    private let publishCommand: String

    /// `isSharded` is for a Cluster.
    init(isSharded: Bool) {
        self.publishCommand = isSharded ? "SPUBLISH" : "PUBLISH"
    }

    /// The scripts as a server knows them, by the hashes that it gave when they were loaded.
    struct Hashes: Sendable {
        var publish = ""
        var history = ""
        var enter = ""
        var leave = ""
        var refresh = ""
    }

    /// What the link knows of its server is believed where it agrees with what is kept; INFO costs half as much as all else.
    private static let begin = """
        local meta, stream = KEYS[1], KEYS[2]
        local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000)
        local known = redis.call('HMGET', meta, 'e', 'r', 'o', 'b', 'd')
        local epoch, offset, bytes = known[1], tonumber(known[3] or 0), tonumber(known[4] or 0)
        local run, data = string.sub(ARGV[1], 1, 40), string.sub(ARGV[1], 41, 80)
        if not epoch or known[2] ~= run or known[5] ~= data then
          local said = redis.call('INFO', 'replication')
          data = string.match(said, 'master_replid:(%x+)') or data
          local valid = epoch and known[2] == run and (not known[5] or known[5] == data)
          if epoch and not valid and string.find(said, 'master_replid2:0+%s') then
            valid = string.find(string.sub(ARGV[1], 81), known[5] or known[2], 1, true)
          end
          if valid then
            redis.call('HSET', meta, 'r', run, 'd', data)
          else
            local kind = redis.call('TYPE', stream).ok
            if kind ~= 'none' and kind ~= 'stream' then
              return redis.error_reply('WRONGTYPE ' .. stream .. ' holds a ' .. kind)
            end
            epoch, offset, bytes = ARGV[2], 0, 0
            redis.call('DEL', meta, stream)
            redis.call('HSET', meta, 'e', epoch, 'r', run, 'd', data, 'o', 0, 'b', 0)
          end
        end
        redis.call('PEXPIRE', meta, ARGV[3])
        """

    /// Appends a publication and sends it to the channel.
    ///
    /// KEYS: meta, stream, idempotency key or none. ARGV: the server's run and data, and others whose data is valid; epoch if a new
    /// one begins, milliseconds to keep the position, channel, header, payload, greatest count, greatest byte count, milliseconds to keep publications,
    /// milliseconds to keep the idempotency key.
    ///
    /// Returns whether it is new, epoch, offset.
    ///
    /// Its first line makes a full Redis refuse it as a whole: without, only the first write would be refused.
    var publish: String {
        "#!lua\n" + Self.begin + """

            local payload = ARGV[6]
            if KEYS[3] then
              local at = redis.call('GET', KEYS[3])
              if at and string.sub(at, 1, 8) == epoch then return {0, epoch, string.sub(at, 9)} end
            end
            offset = offset + 1
            bytes = bytes + #payload
            local id = string.format('%.0f', offset)
            redis.call('XADD', stream, id .. '-0', 't', now, 'h', ARGV[5], 'p', payload)
            local count = redis.call('XLEN', stream)
            if count == 1 then bytes = #payload end
            if offset % 16 == 0 or bytes > tonumber(ARGV[8]) then
              local oldest = now - tonumber(ARGV[9])
              local done = false
              while not done do
                local entries = redis.call('XRANGE', stream, '-', '+', 'COUNT', 16)
                if #entries == 0 then done = true end
                for _, entry in ipairs(entries) do
                  local fields = entry[2]
                  if count > 1 and (count > tonumber(ARGV[7]) or bytes > tonumber(ARGV[8])
                      or tonumber(fields[2]) < oldest) then
                    redis.call('XDEL', stream, entry[1])
                    count = count - 1
                    bytes = bytes - #fields[6]
                  else
                    done = true
                    break
                  end
                end
              end
            end
            redis.call('HSET', meta, 'o', id, 'b', bytes)
            redis.call('PEXPIRE', stream, ARGV[9])
            if KEYS[3] then redis.call('SET', KEYS[3], epoch .. id, 'PX', ARGV[10]) end
            redis.call('\(publishCommand)', ARGV[4], ARGV[5] .. epoch .. struct.pack('>I8', offset) .. payload)
            return {1, epoch, id}
            """
    }

    /// Reads a part of the stream.
    ///
    /// KEYS: meta, stream. ARGV: the server's run and data, and others whose data is valid; epoch if a new one begins, milliseconds to
    /// keep the position, milliseconds to keep publications, greatest count, epoch and offset to go on behind (none: the newest publications).
    ///
    /// Returns epoch, newest offset, whether it is complete, and id, header and payload of each publication.
    var history: String {
        "#!lua flags=allow-oom\n" + Self.begin + """

            local oldest = now - tonumber(ARGV[4])
            local max, entries, complete = tonumber(ARGV[5]), {}, 1
            if ARGV[6] then
              local after = tonumber(ARGV[7])
              if ARGV[6] ~= epoch or after > offset then
                complete = 0
              elseif after < offset then
                local first = string.format('%.0f', after + 1) .. '-0'
                entries = redis.call('XRANGE', stream, first, '+', 'COUNT', max)
                if not entries[1] or entries[1][1] ~= first or tonumber(entries[1][2][2]) < oldest then
                  entries, complete = {}, 0
                end
              end
            elseif max > 0 then
              local newest = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', max)
              for index = #newest, 1, -1 do
                if tonumber(newest[index][2][2]) >= oldest then entries[#entries + 1] = newest[index] end
              end
            end
            local reply = {epoch, string.format('%.0f', offset), complete}
            for _, entry in ipairs(entries) do
              reply[#reply + 1] = entry[1]
              reply[#reply + 1] = entry[2][4]
              reply[#reply + 1] = entry[2][6]
            end
            return reply
            """
    }

    // MARK: - Presence

    /// Notes a member on a node, and tells the topic if it is the member's first.
    ///
    /// KEYS: members' counts of nodes, members' infos, the incarnation's entries, the incarnations by the time their leases end.
    /// ARGV: entry, member, info, channel, event, incarnation.
    ///
    /// Returns -1 if there is no such incarnation: a command that comes late must leave nothing that no lease ends. It reads all that
    /// it will write before it writes, so that a key which holds something else makes Redis refuse it as a whole.
    var enter: String {
        """
        #!lua
        if not redis.call('ZSCORE', KEYS[4], ARGV[6]) then return -1 end
        redis.call('HGET', KEYS[1], ARGV[2])
        redis.call('HGET', KEYS[2], ARGV[2])
        if redis.call('SADD', KEYS[3], ARGV[1]) == 0 then return 0 end
        if redis.call('HINCRBY', KEYS[1], ARGV[2], 1) > 1 then return 0 end
        redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
        redis.call('\(publishCommand)', ARGV[4], ARGV[5] .. ARGV[3])
        return 1
        """
    }

    /// As ``enter``; ARGV: entry, member, channel, event.
    var leave: String {
        """
        #!lua flags=allow-oom
        redis.call('HGET', KEYS[1], ARGV[2])
        local info = redis.call('HGET', KEYS[2], ARGV[2]) or ''
        if redis.call('SREM', KEYS[3], ARGV[1]) == 0 then return 0 end
        if redis.call('HINCRBY', KEYS[1], ARGV[2], -1) > 0 then return 0 end
        redis.call('HDEL', KEYS[1], ARGV[2])
        redis.call('HDEL', KEYS[2], ARGV[2])
        redis.call('\(publishCommand)', ARGV[3], ARGV[4] .. info)
        return 1
        """
    }

    /// Renews a lease, gives up incarnations, and takes some entries of a dead one away.
    ///
    /// KEYS: the incarnations by the time their leases end. ARGV: incarnation, milliseconds of a lease, prefix of all keys,
    /// header of an event, greatest count of entries, 1 if the lease must still hold, incarnations to give up.
    ///
    /// Returns whether the lease still held, how many entries were taken away, what the server's data is called, and whether data that
    /// was moved there is as it was where it came from. A lease that must hold and has ended is not
    /// begun anew, so that whoever asks again, for the answer was lost, is told again.
    ///
    /// All nodes renew every third of a lease. If none has for half of one, Redis was away and not they: all leases begin anew, and
    /// nothing is taken away by this call. What has begun to be taken away counts as given up, so that no lease brings it back.
    ///
    /// Of each entry it reads first: if a slot is on the move and a key is gone already, it ends before the entry is touched.
    var refresh: String {
        """
        #!lua flags=allow-oom
        local nodes, prefix = KEYS[1], ARGV[3]
        local time = redis.call('TIME')
        local now = time[1] * 1000 + math.floor(time[2] / 1000)
        local lease, taken, max = tonumber(ARGV[2]), 0, tonumber(ARGV[5])
        if #redis.call('ZRANGEBYSCORE', nodes, now + lease / 2, '+inf', 'LIMIT', 0, 1) == 0 then
          max = 0
          for _, name in ipairs(redis.call('ZRANGEBYSCORE', nodes, '(0', '+inf')) do
            redis.call('ZADD', nodes, now + lease, name)
          end
        end
        local said = redis.call('INFO', 'replication')
        local data = string.match(said, 'master_replid:(%x+)') or ''
        local fresh = string.find(said, 'master_replid2:0+%s') and 1 or 0
        local known = tonumber(redis.call('ZSCORE', nodes, ARGV[1]) or 0) > now
        if not known and ARGV[6] == '1' then return {0, 0, data, fresh} end
        redis.call('ZADD', nodes, now + lease, ARGV[1])
        for index = 7, #ARGV do redis.call('ZADD', nodes, 0, ARGV[index]) end
        local dead = redis.call('ZRANGEBYSCORE', nodes, '-inf', now, 'LIMIT', 0, 1)[1]
        if dead and max > 0 then
          local set = prefix .. 'n:' .. dead
          redis.call('ZADD', nodes, 0, dead)
          local entries = redis.call('SRANDMEMBER', set, max)
          taken = #entries
          for _, entry in ipairs(entries) do
            local size = struct.unpack('>I4', entry)
            local topic, member = string.sub(entry, 5, 4 + size), string.sub(entry, 5 + size)
            local counts, infos = prefix .. 'p:' .. topic, prefix .. 'i:' .. topic
            local count = tonumber(redis.call('HGET', counts, member) or 0)
            local info = redis.call('HGET', infos, member) or ''
            if count > 1 then
              redis.call('HINCRBY', counts, member, -1)
            else
              redis.call('HDEL', counts, member)
              redis.call('HDEL', infos, member)
              local event = ARGV[4] .. struct.pack('>I4', #member) .. member .. info
              redis.call('\(publishCommand)', prefix .. 'c:' .. topic, event)
            end
            redis.call('SREM', set, entry)
          end
          if redis.call('SCARD', set) == 0 then
            redis.call('ZREM', nodes, dead)
            if taken < max then taken = max end
          end
        end
        return {known and 1 or 0, taken, data, fresh}
        """
    }
}
