use std::io::IoSlice;
use std::path::Path;

use super::*;
use crate::disk::{DiskFile, OpenMode};

fn write(file: &Arc<dyn DiskFile>, offset: u64, data: &[u8]) {
    file.write_at(offset, &[IoSlice::new(data)]).unwrap();
}

fn read(disk: &Arc<dyn Disk>, path: &str) -> io::Result<Vec<u8>> {
    disk.open(Path::new(path), OpenMode::Read)?.read_at(0, 1 << 20)
}

fn synced_file(disk: &Arc<dyn Disk>, data: &[u8]) -> Arc<dyn DiskFile> {
    let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
    write(&file, 0, data);
    file.sync_blocking().unwrap();
    disk.sync_dir_blocking(Path::new("/")).unwrap();
    file
}

#[test]
fn power_loss_keeps_what_was_synced_and_loses_the_rest() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let file = synced_file(&disk, b"abc");
    write(&file, 3, b"def");
    hardware.crash(Crash::PowerLosingAll);
    assert_eq!(read(&hardware.mount(), "/f").unwrap(), b"abc");
    assert!(file.read_at(0, 1).is_err(), "a handle of the dead process is dead");
    assert!(disk.open(Path::new("/f"), OpenMode::Read).is_err());
}

#[test]
fn t24_power_loss_loses_a_synced_file_whose_folder_was_not_synced() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let file = disk.open(Path::new("/f"), OpenMode::Create).unwrap();
    write(&file, 0, b"abc");
    file.sync_blocking().unwrap();
    hardware.crash(Crash::PowerLosingAll);
    assert!(!hardware.mount().exists(Path::new("/f")));
}

#[test]
fn a_rename_is_old_or_new_never_neither() {
    let (mut old, mut new) = (0, 0);
    for seed in 0..50 {
        let hardware = SimDisk::new(seed);
        let disk = hardware.mount();
        synced_file(&disk, b"old");
        let file = disk.open(Path::new("/t"), OpenMode::Create).unwrap();
        write(&file, 0, b"new");
        file.sync_blocking().unwrap();
        disk.rename(Path::new("/t"), Path::new("/f")).unwrap();
        hardware.crash(Crash::Power);
        match read(&hardware.mount(), "/f").unwrap().as_slice() {
            b"old" => old += 1,
            b"new" => new += 1,
            other => panic!("{other:?}"),
        }
    }
    assert!(old > 0 && new > 0, "both happen: {old}, {new}");
}

#[test]
fn writes_tear_and_the_same_seed_tears_alike() {
    let outcome = |seed| {
        let hardware = SimDisk::new(seed);
        let disk = hardware.mount();
        let file = synced_file(&disk, b"");
        write(&file, 0, b"0123456789");
        write(&file, 10, b"abcdefghij");
        hardware.crash(Crash::Power);
        read(&hardware.mount(), "/f").unwrap()
    };
    let outcomes: std::collections::BTreeSet<_> = (0..200).map(outcome).collect();
    assert!(outcomes.len() > 10, "{outcomes:?}");
    assert_eq!(outcome(7), outcome(7));
}

#[test]
fn power_loss_cuts_a_write_at_any_of_its_bytes() {
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..2_000 {
        let hardware = SimDisk::new(seed);
        let disk = hardware.mount();
        let file = synced_file(&disk, b"");
        write(&file, 0, b"0123456789");
        hardware.crash(Crash::Power);
        let left = read(&hardware.mount(), "/f").unwrap();
        if b"0123456789".starts_with(&left) {
            lengths.insert(left.len());
        }
    }
    assert_eq!(lengths, (0..=10).collect());
}

#[test]
fn what_a_run_may_still_call_is_counted() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let file = synced_file(&disk, b"abc");
    hardware.end_run_after(1);
    assert!(!hardware.is_run_over());
    write(&file, 3, b"d");
    assert!(hardware.is_run_over());
    assert!(file.sync_blocking().is_err());
    hardware.crash(Crash::Process);
    assert!(!hardware.is_run_over());
    assert_eq!(read(&hardware.mount(), "/f").unwrap(), b"abcd");
}

#[tokio::test(start_paused = true)]
async fn a_stalled_disk_syncs_when_it_goes_on() {
    let hardware = SimDisk::new(1);
    let file = synced_file(&hardware.mount(), b"abc");
    hardware.stall(true);
    let mut sync = file.clone().sync();
    assert!(tokio::time::timeout(Duration::from_secs(10), &mut sync).await.is_err());
    hardware.stall(false);
    sync.await.unwrap();
}

#[test]
fn t44_after_a_failed_sync_a_later_one_succeeds_and_the_data_is_gone_all_the_same() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let file = synced_file(&disk, b"abc");
    write(&file, 3, b"def");
    hardware.fail_syncs(Some("/f"));
    assert!(file.sync_blocking().is_err());
    hardware.fail_syncs(None);
    file.sync_blocking().unwrap();
    assert_eq!(read(&disk, "/f").unwrap(), b"abcdef", "the page cache shows it");
    hardware.crash(Crash::Power);
    assert_eq!(read(&hardware.mount(), "/f").unwrap(), b"abc");
}

#[test]
fn a_full_disk_writes_what_fits_and_says_so() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    hardware.set_capacity(5);
    let file = synced_file(&disk, b"abc");
    let error = file.write_at(3, &[IoSlice::new(b"defg")]).unwrap_err();
    assert!(crate::disk::is_disk_full(&error));
    assert_eq!(read(&disk, "/f").unwrap(), b"abcde");
    assert_eq!(disk.space(Path::new("/")).unwrap().available, 0);
}

#[tokio::test(start_paused = true)]
async fn a_sync_covers_what_was_written_before_it_began() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let file = synced_file(&disk, b"abc");
    hardware.set_latency(SimLatency::ssd());
    write(&file, 3, b"def");
    let sync = file.clone().sync();
    write(&file, 6, b"ghi");
    sync.await.unwrap();
    hardware.crash(Crash::PowerLosingAll);
    assert_eq!(read(&hardware.mount(), "/f").unwrap(), b"abcdef");
}

#[test]
fn a_lock_is_held_by_one_and_dies_with_the_process() {
    let hardware = SimDisk::new(1);
    let disk = hardware.mount();
    let lock = disk.lock(Path::new("/lock")).unwrap();
    assert_eq!(disk.lock(Path::new("/lock")).err().unwrap().kind(), io::ErrorKind::WouldBlock);
    hardware.crash(Crash::Process);
    let again = hardware.mount().lock(Path::new("/lock")).unwrap();
    drop(lock);
    assert!(hardware.mount().lock(Path::new("/lock")).is_err(), "the dead process's lock frees nothing");
    drop(again);
}
