#!/bin/sh
# repack.sh NAME VERSION PACKAGE...: a flat repository /srv/lab/repo/NAME with
# the packages of /srv/lab/debian under another version. From 16 on they have
# the Python code and the files of the wheel of 16 in them.
set -eu
name=$1 version=$2
shift 2
lab=/srv/lab
repo=$lab/repo/$name
mkdir -p "$repo"

# The code of the wheel in place of Debian's.
new_code() {
    case $1 in
        python3-barbican)
            rm -rf x/usr/lib/python3/dist-packages/*
            unzip -q $lab/barbican-16.*.whl -d w
            mv w/barbican w/barbican-*.dist-info x/usr/lib/python3/dist-packages/
            case $version in
                1:17.*) sed -i 's/^Version: .*/Version: 17.0.0/' x/usr/lib/python3/dist-packages/*.dist-info/METADATA ;;
            esac
            rm -rf w
            ;;
        barbican-common)
            unzip -q $lab/barbican-16.*.whl '*.data/*' -d w
            cp w/*.data/data/etc/barbican/barbican-api-paste.ini x/usr/share/barbican-common/
            rm -rf w
            ;;
    esac
}

for package; do
    deb=$(echo $lab/debian/"${package}"_*.deb)
    old=$(dpkg-deb -f "$deb" Version)
    file=${package}_${version#*:}_all.deb
    if [ "$version" = "$old" ]; then
        cp "$deb" "$repo/$file"
    else
        dpkg-deb -R "$deb" x
        sed -i "s/^Version: .*/Version: $version/; s/(= $old)/(= $version)/g" x/DEBIAN/control
        case $version in
            1:16.*|1:17.*) new_code "$package" ;;
        esac
        if [ "$name:$package" = broken:barbican-common ]; then
            sed -i '1a [ ! -x /run/in-postinst ] || /run/in-postinst || exit 1' x/DEBIAN/postinst
        fi
        (cd x && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | xargs -0 md5sum) >md5sums
        mv md5sums x/DEBIAN/
        dpkg-deb --root-owner-group -Znone -b x "$repo/$file" >/dev/null
        rm -rf x
    fi
    {
        dpkg-deb -f "$repo/$file"
        echo "Filename: ./$file"
        echo "Size: $(stat -c %s "$repo/$file")"
        echo "SHA256: $(sha256sum "$repo/$file" | cut -d ' ' -f 1)"
        echo
    } >>"$repo/Packages"
done
