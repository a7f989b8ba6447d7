//! Giving up root's rights for good (`--user`).

use std::fs;

use anyhow::{Context, Result, bail};
use rustix::process::{Gid, Uid, geteuid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

/// A user's ids.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

/// Becomes `user`. Must be called before there is a second thread: Linux keeps these ids per thread, and threads inherit
/// them.
pub(crate) fn become_user(user: &str) -> Result<()> {
    let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
    let group = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    let Some(target) = look_up(user, &passwd, &group) else {
        bail!("--user {user}: no such user in /etc/passwd");
    };
    if geteuid().as_raw() == target.uid {
        return Ok(());
    }
    if !geteuid().is_root() {
        bail!("--user {user}: only root can run as somebody else");
    }
    let groups: Vec<Gid> = target.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups).context("cannot set the groups")?;
    set_thread_gid(Gid::from_raw(target.gid)).context("cannot set the group id")?;
    set_thread_uid(Uid::from_raw(target.uid)).context("cannot set the user id")?;
    if target.uid != 0 && set_thread_uid(Uid::ROOT).is_ok() {
        bail!("--user {user}: root's rights could be taken back; refusing to go on");
    }
    Ok(())
}

/// Whether we run with root's rights.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

fn look_up(user: &str, passwd: &str, group: &str) -> Option<User> {
    let fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 4);
    let found = fields.into_iter().find(|f| f[0] == user || f[2] == user)?;
    let (name, uid, gid) = (found[0], found[2].parse().ok()?, found[3].parse().ok()?);
    let mut groups = vec![gid];
    for line in group.lines() {
        let fields: Vec<&str> = line.split(':').collect();
        if let [_, _, id, members, ..] = fields[..]
            && members.split(',').any(|m| m == name)
            && let Ok(id) = id.parse()
            && id != gid
        {
            groups.push(id);
        }
    }
    Some(User { uid, gid, groups })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name_and_number_with_their_groups() {
        let passwd =
            "root:x:0:0:root:/root:/bin/sh\n# a note\nlogs:x:998:997:,,,:/var/lib/logs:/usr/sbin/nologin\n";
        let group = "root:x:0:\nlogs:x:997:\nadm:x:4:syslog,logs\nmail:x:8:logs2\n";
        let logs = User { uid: 998, gid: 997, groups: vec![997, 4] };
        assert_eq!(look_up("logs", passwd, group).as_ref(), Some(&logs));
        assert_eq!(look_up("998", passwd, group), Some(logs));
        assert_eq!(look_up("nobody", passwd, group), None);
    }
}
